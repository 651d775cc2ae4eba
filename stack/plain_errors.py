"""What the clients of Kafka and Redis raise, as one line for whoever runs the process."""

from pipeline.errors import FraudstreamError

CLIENTS = {"kafka": "Kafka", "aiokafka": "Kafka", "faust": "Kafka", "redis": "Redis"}
CHECK = "`fraudstream check` says which permission is missing"
# Both clients of Kafka have classes of these names.
WORDS = {
    "TopicAuthorizationFailedError": f"an operation on a topic is not allowed to us: {CHECK}",
    "GroupAuthorizationFailedError": f"the consumer group is not allowed to us: {CHECK}",
    "ClusterAuthorizationFailedError": f"an operation on the cluster is not allowed to us: {CHECK}",
    "SaslAuthenticationFailedError": "it refuses our name or password",
    "SaslAuthenticationFailed": "it refuses our name or password",
    "NoPermissionError": f"a command is not allowed to us: {CHECK}",
    "AuthenticationError": "it refuses our name or password",
}


def said(error: BaseException) -> str | None:
    """Give the line; `None` for what is no fault of a server, of a setting or of a file."""
    if isinstance(error, FraudstreamError):
        return str(error)
    of = CLIENTS.get(type(error).__module__.partition(".")[0])
    if of is None:
        return None
    name, text = type(error).__name__, " ".join(str(error).split())
    if name in WORDS:
        return f"{of}: {WORDS[name]} ({text or name})"
    return f"{of} cannot be used: {text or name}"
