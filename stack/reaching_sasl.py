"""What a broker answers to our name and secret, in plain words; kafka-python often loses that."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaError, SaslAuthenticationFailed, UnsupportedSaslMechanismError

from stack.kafka_address import Kafka, async_connection

CONNECT_SECONDS_MAX = 5.0
CLOSE_SECONDS_MAX = 1.0


def sasl_problem(kafka: Kafka, host: str, port: int) -> str | None:
    """Say who we are; give what is wrong by the answer, `None` where we are welcome."""

    async def attempt() -> None:
        given = async_connection(kafka)
        del given["bootstrap_servers"]
        connection = AIOKafkaConnection(
            host, port, request_timeout_ms=int(CONNECT_SECONDS_MAX * 1000), **given
        )
        try:
            await connection.connect()
        finally:
            await asyncio.wait([connection.close()], timeout=CLOSE_SECONDS_MAX)

    security = kafka.security
    # The caller may have a loop of its own in this thread.
    with ThreadPoolExecutor(1) as other:
        try:
            other.submit(asyncio.run, attempt()).result()
        except UnsupportedSaslMechanismError:
            return f"{host}:{port} does not take kafka_sasl_mechanism {security.sasl_mechanism}"
        except SaslAuthenticationFailed:
            secret = f"the password of {security.username}" if security.username else "the token"
            return (
                f"{host}:{port} refuses {secret} ({security.sasl_mechanism}): "
                "see kafka_username, kafka_password_file and kafka_sasl_mechanism"
            )
        except KafkaError as error:
            return (
                f"{host}:{port} does not answer as kafka_security says ({security.security}): "
                f"{type(error).__name__}"
            )
    return None
