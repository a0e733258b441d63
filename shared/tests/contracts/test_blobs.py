import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_shared import blobs as blobs_module
from millrace_shared.blobs import CACHE_BYTES_MAX, INLINE_BYTES_MAX, VALUE_BYTES_MAX, Blobs, BlobUnavailable
from millrace_shared.errors import MessageInvalid, ValueTooLarge
from millrace_shared.values import BlobRef, Payload, is_null_at, put_at

LARGE = "x" * INLINE_BYTES_MAX  # two bytes more as JSON
ABSENT = BlobRef("0" * 64, 2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "made" / "when needed"


@pytest.fixture
def blobs(root: Path) -> Blobs:
    return Blobs(f"file://{root}")


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_a_blob_is_kept_under_its_workspace_and_hash(blobs: Blobs, root: Path):
    reference = await blobs.put("default", b'{"a":1}')
    digest = hashlib.sha256(b'{"a":1}').hexdigest()
    assert reference == BlobRef(digest, 7)
    assert (root / "default" / digest[:2] / digest).read_bytes() == b'{"a":1}'
    assert await blobs.get("default", reference) == b'{"a":1}'
    assert await blobs.load("default", reference) == {"a": 1}
    assert await blobs.put("default", b'{"a":1}') == reference
    assert mode(root) == 0o700


async def test_another_process_reads_it_too(blobs: Blobs, root: Path):
    reference = await blobs.put("default", b"1")
    assert await Blobs(f"file://{root}").get("default", reference) == b"1"


async def test_a_reference_is_worth_nothing_in_another_workspace(blobs: Blobs):
    reference = await blobs.put("mine", b'"secret"')
    await blobs.get("mine", reference)
    with pytest.raises(BlobUnavailable, match=reference.sha256):
        await blobs.get("theirs", reference)


@pytest.mark.parametrize("workspace", ["", ".", "..", "a/b", "../a", "A", "-a", "a\n", "ä", "a" * 65])
async def test_what_is_no_workspace_is_refused(blobs: Blobs, workspace: str):
    with pytest.raises(MessageInvalid, match="is not a workspace"):
        await blobs.put(workspace, b"1")
    with pytest.raises(MessageInvalid, match="is not a workspace"):
        await blobs.get(workspace, ABSENT)


@pytest.mark.parametrize(
    "sha256", ["", "..", "../../theirs/00/" + "0" * 64, "0" * 63, "0" * 65, "A" * 64, "0" * 64 + "\n"]
)
async def test_a_reference_that_is_no_hash_is_refused(blobs: Blobs, sha256: str):
    with pytest.raises(MessageInvalid, match="is not the hash of a blob"):
        await blobs.get("mine", BlobRef(sha256, 1))


async def test_a_missing_blob_may_still_come(blobs: Blobs):
    with pytest.raises(BlobUnavailable, match=f"blob {ABSENT.sha256} cannot be read"):
        await blobs.unpack("default", Payload(refs={"": ABSENT}))


async def test_a_store_that_cannot_be_written_to_is_unavailable(blobs: Blobs, root: Path):
    (root / "default").write_text("a file where a directory belongs")
    with pytest.raises(BlobUnavailable, match="did not take 1 bytes"):
        await blobs.put("default", b"1")


@pytest.mark.parametrize("data", [None, 1, "text", {"a": [1, None]}, LARGE[:-2], [LARGE[:-6], 1]])
async def test_a_small_value_stays_inline(blobs: Blobs, data: Any, root: Path):
    payload = await blobs.pack("default", data)
    assert payload == Payload(data)
    assert await blobs.unpack("default", payload) == data
    assert files(root) == []


@pytest.mark.parametrize("data", [LARGE[:-1], {"a": LARGE}, [LARGE] * 3])
async def test_a_large_value_goes_by_claim_check(blobs: Blobs, data: Any):
    payload = await blobs.pack("default", data)
    assert payload.data is None
    assert list(payload.refs) == [""]
    assert await blobs.unpack("default", payload) == data


async def test_a_value_over_the_limit_is_refused(blobs: Blobs, root: Path):
    with pytest.raises(ValueTooLarge, match=r"64.0 MiB of JSON; the limit is 64 MiB"):
        await blobs.pack("default", "x" * (VALUE_BYTES_MAX - 1))
    with pytest.raises(ValueTooLarge, match=r"the value is 80.0 MiB"):
        await blobs.unpack(
            "default", Payload([None, None], {"/0": BlobRef("0" * 64, 40 << 20), "/1": BlobRef("1" * 64, 40 << 20)})
        )
    assert files(root) == []


@pytest.mark.parametrize("data", [object(), {1j: 1}, float, {"a": {2, object}}])
async def test_what_is_not_json_is_refused(blobs: Blobs, data: Any):
    with pytest.raises(MessageInvalid, match="not JSON"):
        await blobs.pack("default", data)


async def test_a_value_that_holds_itself_is_refused(blobs: Blobs):
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(MessageInvalid, match="not JSON"):
        await blobs.pack("default", endless)


async def test_parts_are_put_in_their_places_and_the_payload_is_left_as_it_was(blobs: Blobs):
    references = [await blobs.put("default", json.dumps(f"part {number}").encode()) for number in range(4)]
    data = {"a": [0, None], "b/c": {"~": None}, "": {"": None}, "d": None}
    refs = dict(zip(["/a/1", "/b~1c/~0", "//", "/d"], references, strict=True))
    payload = Payload(data, refs)
    assert await blobs.unpack("default", payload) == {
        "a": [0, "part 0"],
        "b/c": {"~": "part 1"},
        "": {"": "part 2"},
        "d": "part 3",
    }
    assert data == {"a": [0, None], "b/c": {"~": None}, "": {"": None}, "d": None}


@pytest.mark.parametrize("pointer", ["/missing/x", "/list/2", "/list/x", "/text/0", "/null/a", "list", "/list/-/a"])
async def test_a_reference_without_a_place_is_refused(blobs: Blobs, pointer: str):
    reference = await blobs.put("default", b"1")
    with pytest.raises(MessageInvalid, match="has no place"):
        await blobs.unpack("default", Payload({"list": [0, 1], "text": "t", "null": None}, {pointer: reference}))


def places(data: Any, pointer: str = "") -> list[str]:
    """The pointers of all values in `data`, written as RFC 6901 has it."""
    members = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    inside = [(f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}", value) for key, value in members]
    return [one for below, value in inside for one in (below, *places(value, below))]


NESTED = st.recursive(
    st.none() | st.integers(),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(st.text("a~/", max_size=2), inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
).filter(lambda data: isinstance(data, list | dict))


@given(NESTED, st.data())
def test_every_place_in_any_data_can_be_filled(data: Any, drawn: st.DataObject):
    pointer = drawn.draw(st.sampled_from(places(data)))
    before = json.dumps(data)
    filled = put_at(data, pointer, "here")
    assert json.dumps(data) == before
    found = filled
    for token in pointer[1:].split("/"):
        name = token.replace("~1", "/").replace("~0", "~")
        found = found[int(name)] if isinstance(found, list) else found[name]
    assert found == "here"


async def test_shrink_leaves_what_is_small_alone(blobs: Blobs):
    payload = Payload({"a": None}, {"/a": ABSENT})
    assert await blobs.shrink("default", payload) is payload


async def test_shrink_makes_a_large_payload_one_blob_with_its_parts_in_it(blobs: Blobs):
    part = await blobs.put("default", b'"part"')
    payload = Payload({"small": None, "large": "x" * 200}, {"/small": part})
    shrunk = await blobs.shrink("default", payload, inline_bytes_max=100)
    assert (shrunk.data, list(shrunk.refs)) == (None, [""])
    assert await blobs.unpack("default", shrunk) == {"small": "part", "large": "x" * 200}


async def test_what_was_read_is_remembered_within_a_bound(blobs: Blobs, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(blobs_module, "CACHE_BYTES_MAX", 100)
    references = [await blobs.put("default", b"%040d" % number) for number in range(4)]
    for reference in references[:3]:
        await blobs.get("default", reference)
    assert blobs._cache_bytes == 80
    for path in files(root):
        path.unlink()
    assert await blobs.get("default", references[1]) == b"%040d" % 1
    with pytest.raises(BlobUnavailable):
        await blobs.get("default", references[0])


async def test_a_blob_that_many_read_at_once_is_counted_once(blobs: Blobs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(blobs_module, "CACHE_BYTES_MAX", 100)
    for number in range(10):
        reference = await blobs.put("default", b"%040d" % number)
        read = await asyncio.gather(*(blobs.get("default", reference) for _ in range(5)))
        assert set(read) == {b"%040d" % number}
        assert blobs._cache_bytes == sum(map(len, blobs._cache.values())) <= 100


async def test_a_blob_larger_than_the_memory_for_them_is_read_all_the_same(blobs: Blobs):
    document = b'"' + b"x" * CACHE_BYTES_MAX + b'"'
    reference = await blobs.put("default", document)
    assert await blobs.get("default", reference) == document
    assert blobs._cache_bytes == 0


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
async def test_a_float_that_json_does_not_have_is_refused(tmp_path: Path, number: float) -> None:
    blobs = Blobs(f"file://{tmp_path}")
    with pytest.raises(MessageInvalid, match="NaN or an infinity"):
        await blobs.pack("default", {"rows": [{"score": number}], "none": None})
    assert (await blobs.pack("default", {"none": None, "score": 0.5})).data == {"none": None, "score": 0.5}


@pytest.mark.parametrize(
    ("data", "pointer", "is_null"),
    [
        (None, "", True),
        (0, "", False),
        ({"a": None}, "/a", True),
        ({"a": 1}, "/a", False),
        ({"a": None}, "/b", False),
        ({"a": [None, {"~/": None}]}, "/a/0", True),
        ({"a": [None, {"~/": None}]}, "/a/1/~0~1", True),
        ({"a": [None]}, "/a/7", False),
        ({"a": [None]}, "/a/x", False),
        ({"a": None}, "/a/b", False),
        ({"": None}, "/", True),
    ],
)
def test_null_at_a_place(data: object, pointer: str, is_null: bool):
    assert is_null_at(data, pointer) is is_null
