from pathlib import Path

import pytest
from pydantic import Field, SecretStr, ValidationError

from millrace_shared.errors import SettingsInvalid
from millrace_shared.settings import PREFIX, DatabaseSettings, Settings


class ServiceSettings(DatabaseSettings):
    api_key: SecretStr = Field(SecretStr(""), min_length=20)
    slots: int = Field(32, ge=1)


def test_everything_has_a_default():
    settings = ServiceSettings.load({})
    assert settings.nats_url.get_secret_value() == "nats://127.0.0.1:4222"
    assert (settings.durability, settings.log_format, settings.slots) == ("fsync", "console", 32)


def test_each_field_is_read_from_its_variable_and_nothing_else_is():
    settings = ServiceSettings.load(
        {
            "MILLRACE_NATS_URL": "nats://elsewhere",
            "MILLRACE_DATA_DIR": "data",
            "MILLRACE_SLOTS": "7",
            "MILLRACE_DURABILITY": "interval",
            "MILLRACE_UNKNOWN": "of another service",
            "SLOTS": "9",
            "millrace_slots": "9",
        }
    )
    assert settings.nats_url.get_secret_value() == "nats://elsewhere"
    assert (settings.data_dir, settings.slots, settings.durability) == (Path("data"), 7, "interval")


def test_an_empty_variable_is_one_that_is_not_set():
    assert ServiceSettings.load({"MILLRACE_SLOTS": "", "MILLRACE_BLOB_URL": ""}) == ServiceSettings.load({})


def test_the_environment_is_the_process_s_own_when_none_is_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MILLRACE_SLOTS", "3")
    assert ServiceSettings.load().slots == 3


def test_blobs_are_kept_in_the_data_directory_unless_it_says_otherwise(tmp_path: Path):
    assert Settings.load({"MILLRACE_DATA_DIR": str(tmp_path)}).blobs == f"file://{tmp_path}/blobs"
    assert Settings.load({"MILLRACE_BLOB_URL": "s3://bucket"}).blobs == "s3://bucket"
    assert Settings.load({"MILLRACE_DATA_DIR": "relative"}).blobs == f"file://{Path.cwd()}/relative/blobs"


def test_all_mistakes_are_told_at_once_by_variable():
    wrong = {
        "MILLRACE_SLOTS": "0",
        "MILLRACE_OPS_PORT": "70000",
        "MILLRACE_DURABILITY": "maybe",
        "MILLRACE_NATS_REPLICAS": "two",
        "MILLRACE_LOG_LEVEL": "LOUD",
    }
    with pytest.raises(SettingsInvalid) as invalid:
        ServiceSettings.load({**wrong, "MILLRACE_DATABASE_POOL_MAX": "5"})
    problems = str(invalid.value).split("; ")
    assert sorted(problem.partition(": ")[0] for problem in problems) == sorted(wrong)
    assert all(problem.partition(": ")[2] for problem in problems)
    assert "'fsync' or 'interval'" in str(invalid.value)


def test_no_secret_is_ever_shown():
    secret = "hunter2-hunter2"
    with pytest.raises(SettingsInvalid, match="MILLRACE_API_KEY") as invalid:
        ServiceSettings.load({"MILLRACE_API_KEY": secret, "MILLRACE_SLOTS": secret})
    assert secret not in str(invalid.value)
    assert invalid.value.__cause__ is None
    assert invalid.value.__suppress_context__
    url = f"postgresql://millrace:{secret}@host/db"
    settings = ServiceSettings.load({"MILLRACE_DATABASE_URL": url, "MILLRACE_NATS_URL": f"nats://user:{secret}@host"})
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert secret not in shown


def test_settings_do_not_change():
    settings = ServiceSettings.load({})
    with pytest.raises(ValidationError, match="frozen"):
        settings.slots = 1  # type: ignore[misc]


def test_every_setting_of_every_service_is_described():
    for name, field in DatabaseSettings.model_fields.items():
        assert field.description, f"{PREFIX}{name.upper()}"
