"""The metadata reader reads what the gguf package writes, and refuses everything else in words."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from octavo.checkpoints.gguf_header import read_header
from octavo.errors import ModelError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("a.uint8", 255)
    writer.add_int8("a.int8", -128)
    writer.add_uint16("a.uint16", 65535)
    writer.add_int16("a.int16", -32768)
    writer.add_uint32("a.uint32", 2**32 - 1)
    writer.add_int32("a.int32", -(2**31))
    writer.add_uint64("a.uint64", 2**64 - 1)
    writer.add_int64("a.int64", -(2**63))
    writer.add_float32("a.float32", 0.5)
    writer.add_float64("a.float64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "여덟 쪽 🙂")
    writer.add_array("a.texts", ["", "▁a", "한"])
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_array("a.flags", [True, False])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_every_kind_of_value_is_read_as_the_gguf_package_reads_it(file: Path) -> None:
    reader = gguf.GGUFReader(file)
    expected = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert read_header(file).metadata == expected


def test_texts_are_decoded_when_they_are_asked_for(file: Path, tmp_path: Path) -> None:
    texts, written = read_header(file).metadata["a.texts"], ["", "▁a", "한"]
    assert len(texts) == 3
    assert (texts[0], texts[-1], texts[1:], texts.index("▁a")) == ("", "한", written[1:], 1)
    assert "한" in texts
    assert texts == written == list(texts)
    assert texts != written[1:]
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(file.read_bytes().replace("한".encode(), b"\xff\xff\xff"))
    texts = read_header(broken).metadata["a.texts"]
    assert len(texts) == 3
    with pytest.raises(ModelError, match=r"broken\.gguf is not a readable GGUF file"):
        list(texts)


def test_an_empty_tensor_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "empty.gguf", "llama")
    writer.add_tensor("some.bias", np.zeros((4, 0), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"empty\.gguf .*tensor 'some\.bias' of shape \[4, 0\] is empty"):
        read_header(tmp_path / "empty.gguf")


def test_a_file_cut_off_anywhere_is_refused(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    end = len(whole.rstrip(b"\0"))  # the writer pads
    cut = tmp_path / "cut.gguf"
    for length in range(end - 2):
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut\.gguf is not a readable GGUF file"):
            read_header(cut)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (b"not a model, but long enough for a header", "magic number"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "version 1"),
        (struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 2**60), "past the end"),
        (struct.pack("<4sIQQQ1sI", b"GGUF", 3, 0, 1, 1, b"k", 99), "99"),
        (struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"k", 9, 4, 2**60), "past the end"),
        (struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"k", 9, 9, 1), "unpack_from"),
        (struct.pack("<4sIQQQ1sIQ1s", b"GGUF", 3, 0, 1, 1, b"k", 8, 1, b"\xff"), "utf-8"),
    ],
)
def test_a_broken_header_is_refused_with_its_cause(content: bytes, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=cause):
        read_header(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.gguf .*No such file"):
        read_header(tmp_path / "nowhere.gguf")
