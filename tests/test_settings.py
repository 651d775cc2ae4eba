"""One name for a setting everywhere; later places win; what is wrong is said by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SettingError
from pipeline.settings import ENVIRONMENT_PREFIX, SETTINGS, Settings, load_settings

OTHER_VALUES: dict[type, tuple[str, Any]] = {int: ("7", 7), str: ("other", "other")}
OTHER_VALUES |= {bool: ("true", True)}
OTHER_FLOATS = {"review_score_min": "0.25", "decline_score_min": "0.5", "focal_gamma": "3.5"}
OTHER_FLOATS |= {"breaker_decline_share_max": "0.5"}
OTHER_TEXTS = {"loss": "focal", "label_signatures": "off", "river_options": '{"forest": {}}'}
OTHER_TEXTS |= {"mode": "act"}
OTHER_TEXTS |= {"kafka_security": "ssl", "kafka_sasl_mechanism": "PLAIN"}
OTHER_TEXTS |= {"redis_url": "rediss://host:6379/0", "topic_names": "models=theirs"}
# Settings of a connection that are worth nothing without others.
SASL = {"kafka_security": "sasl_ssl", "kafka_username": "me", "kafka_password_file": "secret"}
BESIDE = {name: SASL for name in (*SASL, "kafka_ca_file", "kafka_cert_file", "kafka_key_file")}
BESIDE["kafka_security"] = {}
BESIDE["kafka_cert_file"] = BESIDE["kafka_key_file"] = {
    "kafka_security": "ssl",
    "kafka_cert_file": "cert",
    "kafka_key_file": "key",
}
REDIS_TLS = {"redis_url": "rediss://host:6379/0", "redis_cert_file": "c", "redis_key_file": "k"}
BESIDE |= {name: REDIS_TLS for name in ("redis_ca_file", "redis_cert_file", "redis_key_file")}
BESIDE["redis_username"] = {"redis_password_file": "secret"}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def other_value(setting: Any) -> tuple[str, Any]:
    if isinstance(setting.default, float):
        text = OTHER_FLOATS.get(setting.name, "12.5")
        return text, float(text)
    if setting.name in OTHER_TEXTS:
        return OTHER_TEXTS[setting.name], OTHER_TEXTS[setting.name]
    return OTHER_VALUES[type(setting.default)]


def others(setting: Any) -> dict[str, str]:
    given = BESIDE.get(setting.name, {})
    return {name: text for name, text in given.items() if name != setting.name}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_can_be_given_by_the_environment(setting: Any) -> None:
    text, value = other_value(setting)

    beside = others(setting)

    loaded = load_settings(beside, {ENVIRONMENT_PREFIX + setting.name.upper(): text})

    assert loaded == replace(Settings(), **{setting.name: value, **beside})
    assert loaded != Settings()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_can_be_given_by_the_file(setting: Any, tmp_path: Path) -> None:
    text, value = other_value(setting)
    path = tmp_path / "mine.toml"
    given = text if value is True else repr(value)
    path.write_text(f"{setting.name} = {given}\n", encoding="utf-8")
    beside = others(setting)

    assert load_settings(beside, {}, path) == replace(Settings(), **{setting.name: value, **beside})


def test_every_setting_has_a_line_of_help() -> None:
    assert all(setting.metadata["help"] for setting in SETTINGS)


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("partitions = 2\nmodels_kept = 2\nmetrics_port = 2\n", encoding="utf-8")
    environment = {"FRAUD_PARTITIONS": "3", "FRAUD_MODELS_KEPT": "3", "HOME": "x", "FRAUDS": "x"}

    loaded = load_settings({"partitions": 4}, environment, path)

    assert (loaded.partitions, loaded.models_kept, loaded.metrics_port) == (4, 3, 2)


def test_the_file_of_the_working_folder_is_read_when_it_exists(tmp_path: Path) -> None:
    assert load_settings({}, {}) == Settings()

    (tmp_path / "fraudstream.toml").write_text("partitions = 9\n", encoding="utf-8")

    assert load_settings({}, {}).partitions == 9


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"absent\.toml does not exist"):
        load_settings({}, {}, tmp_path / "absent.toml")


@pytest.mark.parametrize("content", [b"partitions = ", b"partitions = \xff", b"[", b"a b"])
def test_a_file_that_is_no_toml_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)

    with pytest.raises(SettingError, match=r"settings file .*mine\.toml: "):
        load_settings({}, {}, path)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("partition", "partitions"),
        ("review_score", "review_score_min"),
        ("kafka_server", "kafka_servers"),
        ("stat_dir", "state_dir"),
        ("challenger", "challengers"),
    ],
)
def test_an_unknown_setting_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    said = rf"^unknown setting '{name}' \(did you mean '{nearest}'\?\)$"

    with pytest.raises(SettingError, match=said):
        load_settings({}, {f"FRAUD_{name.upper()}": "1"})


def test_a_setting_unlike_any_other_is_refused_without_a_guess() -> None:
    with pytest.raises(SettingError, match="^unknown setting 'xyzzy'$"):
        load_settings({"xyzzy": 1}, {})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"partitions": "many"}, r"partitions must be int \(got 'many'\)"),
        ({"partitions": "2.5"}, "partitions must be int"),
        ({"partitions": 2.5}, r"partitions must be int \(got 2.5\)"),
        ({"partitions": True}, r"partitions must be int \(got True\)"),
        ({"partitions": [1]}, "partitions must be int"),
        ({"partitions": float("inf")}, "partitions must be int"),
        ({"maturity_days": "soon"}, "maturity_days must be float"),
        ({"maturity_days": "nan"}, "maturity_days must be a number from 0 on"),
        ({"maturity_days": "inf"}, "maturity_days must be a number from 0 on"),
        ({"maturity_days": -1.0}, "maturity_days must be a number from 0 on"),
        ({"retry_seconds_max": "-0.5"}, "retry_seconds_max must be a number from 0 on"),
        ({"kafka_servers": 9092}, r"kafka_servers must be str \(got 9092\)"),
        ({"schema": {"name": "card"}}, "schema must be str"),
        ({"partitions": 0}, r"partitions must be at least 1 \(got 0\)"),
        ({"batch_events_max": 0}, "batch_events_max must be at least 1"),
        ({"feedback_limit": -1}, "feedback_limit must be at least 1"),
        ({"models_kept": 0}, "models_kept must be at least 1"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(given: dict[str, object], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        load_settings(given, {})


@pytest.mark.parametrize(
    ("review", "decline"),
    [(0.7, 0.7), (0.8, 0.2), (0.0, 0.5), (-0.1, 0.5), (0.5, 1.1), ("nan", 0.5), (0.5, "nan")],
)
def test_thresholds_that_contradict_each_other_are_both_named(
    review: object, decline: object
) -> None:
    said = r"review_score_min \(.*\) must lie above 0 and below decline_score_min \(.*\)"

    with pytest.raises(SettingError, match=said):
        load_settings({"review_score_min": review, "decline_score_min": decline}, {})


def test_a_decline_threshold_of_one_is_allowed() -> None:
    assert load_settings({"decline_score_min": 1}, {}).decline_score_min == 1.0


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("logistic", ("logistic",)),
        ("logistic, forest ", ("logistic", "forest")),
        ("none", ()),
        ("", ()),
        ("additive,logistic", ("logistic",)),
    ],
)
def test_challengers_are_a_list_without_the_champion(text: str, names: tuple[str, ...]) -> None:
    assert Settings(model="additive", challengers=text).challenger_names == names


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kafka_security": "tls"}, r"kafka_security must be plaintext, ssl, .* \(got 'tls'\)"),
        ({"kafka_sasl_mechanism": "GSSAPI"}, r"must be PLAIN, .*OAUTHBEARER \(got 'GSSAPI'\)"),
        ({"kafka_security": "sasl_ssl"}, "kafka_security is sasl_ssl, so kafka_password_file must"),
        ({"kafka_username": "me"}, "kafka_username is set, but kafka_security is plaintext"),
        ({"kafka_ca_file": "ca.pem"}, "kafka_ca_file is set, but kafka_security is plaintext"),
        ({"kafka_security": "ssl", "kafka_key_file": "k"}, "so kafka_cert_file must be set"),
        ({"redis_ca_file": "ca.pem"}, "redis_url must begin with rediss://"),
        ({"redis_username": "me"}, "so redis_password_file must be set"),
        (
            {"topic_names": "transaction=x"},
            "topic_names must be NAME=TOPIC,.* with names of transactions,",
        ),
        ({"topic_names": "transactions"}, r"\(got 'transactions'\)"),
        ({"topic_names": "feedback=a,models=a"}, "the name 'a' to two topics"),
        ({"topic_names": "feedback=models"}, "the name 'models' to two topics"),
        ({"topic_names": "feedback=a b"}, r"the topic of feedback must match .* \(got 'a b'\)"),
        ({"topic_prefix": "ö"}, "the topic of transactions must match"),
        ({"consumer_group": ""}, "consumer_group must match"),
    ],
)
def test_settings_of_connections_that_contradict_each_other_are_refused(
    given: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingError, match=said):
        load_settings(given, {})


@pytest.mark.parametrize("url", ["redis://:s3cret@host", "redis://host?password=s3cret", "s3cret"])
def test_a_password_in_the_url_of_redis_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SettingError, match="redis_url") as refused:
        load_settings({"redis_url": url}, {})

    assert "s3cret" not in str(refused.value)


def test_servers_of_our_own_take_nothing_of_how_others_are_reached() -> None:
    theirs = Settings(**SASL, kafka_servers="host:1", topic_prefix="x.", partitions=2)

    assert theirs.embedded() == Settings(partitions=2)
