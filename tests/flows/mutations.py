"""Small good files of every kind that is read, and ways to spoil them, by a seed."""

import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from built import some_drawings
from PIL import Image

from pipelines.drawings.parquet import shard_schema, write_shard

ROWS = 6
DEEP = 10_000
# What ends parsers in other ways than a value that is only wrong.
ODD_JSON = (
    "null",
    "true",
    "0",
    "-1",
    "1.5",
    "1e308",
    "-1e308",
    "1e999",
    "NaN",
    "2000000000",
    "9" * 400,
    "9" * 5_000,
    '""',
    '"\\ud800"',
    '"\\u0000"',
    '"1e308"',
    "[]",
    "{}",
    "[[]]",
    "[[[]]]",
    "[[[], []]]",
    "[null]",
    '{"x": 1}',
    '[{"x": [1]}]',
    "[" * DEEP + "]" * DEEP,
    "[" * DEEP,
    '{"a":' * DEEP + "1" + "}" * DEEP,
)
ODD_BYTES = (b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\n", b'"', b"[", b"\x80")
ODD_SHAPES = (
    *("{}", "None", "7", "()", "(6,)", "(6, None)", "(6, {})", "((6, 784),)", "(6, (784,))"),
    *("(6, '784')", "(6, 784.0)", "(True, 784)", "(-6, 784)", "(6, -784)", "(6, 0)", "(0, 784)"),
    *(
        "(2000000000, 784)",
        "(6, 2000000000)",
        f"({'9' * 30}, 784)",
        f"(6, {'9' * 400})",
        "[6, 784]",
    ),
    *("(6, 784, 1, 1)", "(6, 1, 784)", "(6, 28, 28)", "(6" + ", 1" * 40 + ", 784)", "(6, 783)"),
    *("(" * 300 + ")" * 300, "(6, 784j)", "(6, 784)" * 2, "(6, 0x310)", "(6, 1e308)", "{6, 784}"),
    *(f"(6, {'9' * 5_000})", "(6,\n784)", "(6, 784", "b'x'", "...", "\ud800", "(6, 784L)", "1//0"),
)
ODD_DTYPES = (
    *("'|u1'", "'<f4'", "'<f8'", "'<f2'", "'<c16'", "'|O'", "'|S3'", "'<U9'", "'<M8[ns]'", "'<u8'"),
    *("'>u2'", "'|V784'", "None", "7", "{}", "[]", "[('a', '|u1')]", "[('a', '|O')]", "'nothing'"),
    *("('|u1', (784,))", "('|u1', (2000000000,))", "'|b1'", "'<g'", "{'names': ['a']}", "b'|u1'"),
    *("'|S2000000000'", "[('a', '|u1', 99999999999)]", "'O' * 3", "'|u1,|u1'", "''", "[(1, 2)]"),
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file.

    write   a good file into a folder; returns it
    spoil   its content in a way of its kind
    """

    write: Callable[[Path], Path]
    spoil: Callable[[bytes, random.Random], bytes]


def spoiled(content: bytes, kind: Kind, chance: random.Random) -> bytes:
    """Return a file's content with one to three faults."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        spoil = kind.spoil if chance.random() < 0.6 else spoil_bytes
        content = spoil(content, chance)
    return content


def spoil_bytes(content: bytes, chance: random.Random) -> bytes:
    """Flip, cut, put in, write over, repeat or take away some bytes."""
    place = chance.randrange(len(content) + 1)
    stop = min(len(content), place + chance.choice((1, 2, 4, 16, 300)))
    head, part, tail = content[:place], content[place:stop], content[stop:]
    odd = chance.choice(ODD_BYTES) * chance.choice((1, 1, 1, 4, 50))
    noise = chance.randbytes(len(part))
    flipped = bytes(byte ^ 1 << chance.randrange(8) for byte in part[:1]) + part[1:]
    ways = (head, tail, head + tail, head + odd + part + tail, head + odd + tail)
    ways += (head + noise + tail, head + flipped + tail, head + part * 3 + tail)
    return chance.choice((*ways, head + flipped + tail, head + odd + tail))


def _write_npy(folder: Path) -> Path:
    np.save(folder / "bee.npy", some_drawings(ROWS).reshape(ROWS, 784))
    return folder / "bee.npy"


def spoil_npy(content: bytes, chance: random.Random) -> bytes:
    """Write another header."""
    fields = {"descr": "'|u1'", "fortran_order": "False", "shape": "(6, 784)"}
    odd = {"descr": ODD_DTYPES, "shape": ODD_SHAPES, "fortran_order": ("True", "None", "[]", "7")}
    name = chance.choice(("descr", "shape", "shape", "fortran_order"))
    fields[name] = chance.choice(odd[name])
    text = "{" + ", ".join(f"'{key}': {value}" for key, value in fields.items()) + ", }\n"
    text = chance.choice((text,) * 9 + (text[:-9], text * 2, "", "{" * 900, "f()", "'" + text))
    header = text.encode("latin1", "replace")
    version, length = chance.choice(((1, "<H"), (1, "<H"), (2, "<I"), (3, "<I"), (9, "<I")))
    size = struct.pack(length, chance.choice((len(header),) * 9 + (0, 65_535)))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + content[128:]


def _line(row: int, *, is_raw: bool) -> str:
    x, y = [10 * row, 90, 200, 255], [0, 30 + row, 120, 255]
    stroke = [[v * 1.5 for v in x], [v * 1.5 for v in y], [0, 9, 20, 31]] if is_raw else [x, y]
    record = {
        "word": "bee",
        "countrycode": "US",
        "timestamp": "2017-03-06 00:28:58.85688 UTC",
        "recognized": True,
        "key_id": str(4_000_000_000_000_000 + row),
        "drawing": [stroke, stroke],
    }
    return json.dumps(record)


def _write_simplified(folder: Path) -> Path:
    path = folder / "bee.ndjson"
    path.write_text("".join(f"{_line(row, is_raw=False)}\n" for row in range(ROWS)))
    return path


def _write_raw(folder: Path) -> Path:
    path = folder / "bee.ndjson"
    path.write_text("".join(f"{_line(row, is_raw=True)}\n" for row in range(ROWS)))
    return path


def spoil_lines(content: bytes, chance: random.Random) -> bytes:
    """Put an odd value into one line."""
    lines = content.split(b"\n")
    row = chance.randrange(len(lines))
    lines[row] = spoil_json(lines[row], chance)
    return b"\n".join(lines)


def spoil_json(content: bytes, chance: random.Random) -> bytes:
    """Put an odd value in the place of one in a JSON text, if it is one."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return chance.choice(ODD_JSON).encode()
    mark = "THE ODD VALUE"
    text = json.dumps(_marked(value, mark, chance))
    return text.replace(f'"{mark}"', chance.choice(ODD_JSON)).encode()


def _marked(value: Any, mark: str, chance: random.Random) -> Any:
    if not isinstance(value, dict | list) or not value or chance.random() < 0.15:
        return mark
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = "drawing" if "drawing" in keys and chance.random() < 0.5 else chance.choice(keys)
    value[key] = _marked(value[key], mark, chance)
    return value


def _write_binary(folder: Path) -> Path:
    record = struct.pack("<Q2sbIH", 4_000_000_000_000_000, b"US", 1, 1_500_000_000, 2)
    stroke = struct.pack("<H", 3) + bytes([0, 90, 255]) + bytes([9, 200, 255])
    (folder / "bee.bin").write_bytes((record + stroke * 2) * ROWS)
    return folder / "bee.bin"


def spoil_binary(content: bytes, chance: random.Random) -> bytes:
    """Write another number where one stands: of strokes, of points, the head of a record."""
    place = chance.choice((0, 8, 10, 11, 15, 17, 25)) + 33 * chance.randrange(ROWS)
    odd = struct.pack("<H", chance.choice((0, 1, 2, 3, 255, 4_095, 65_535)))
    return content[:place] + odd + content[place + 2 :]


def _write_shard(folder: Path) -> Path:
    labels = np.arange(ROWS) % 2
    content = write_shard(some_drawings(ROWS), {"label": labels}, shard_schema(("bee", "sun")))
    (folder / "train.parquet").write_bytes(content)
    return folder / "train.parquet"


def png_of(image: np.ndarray) -> bytes:
    """Return a drawing as Pillow writes it."""
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG")
    return sink.getvalue()


def odd_columns(chance: random.Random) -> tuple[pa.Array, pa.Array]:
    """Return pictures and labels, of which one or the other is odd."""
    pngs = [png_of(image) for image in some_drawings(ROWS)]
    labels: tuple[Any, ...] = (
        *([0.5] * 6, [1e308] * 6, [float("nan")] * 6, [float("inf")] * 6, [None] * 6, [True] * 6),
        *(
            [[1]] * 6,
            [[]] * 6,
            [{"a": 1}] * 6,
            [b"\xff\xfe"] * 6,
            [b"bee"] * 6,
            [""] * 6,
            [" "] * 6,
        ),
        *(["a/b\0c"] * 6, ["x" * 5_000] * 6, [2**62] * 6, [-1] * 6, ["bee", None] * 3, ["bee"] * 6),
        pa.array(["1.5"] * 6).cast(pa.decimal128(9, 2)),
        pa.array([0] * 6, pa.timestamp("us")),
        pa.array([0] * 6, pa.float16()),
        pa.array([b"bee"] * 6, pa.binary(3)),
        pa.array([0] * 6, pa.duration("s")),
        pa.array([[("a", 1)]] * 6, pa.map_(pa.string(), pa.int64())),
        pa.array(["bee"] * 6).dictionary_encode(),
        pa.array([[1, 2]] * 6, pa.list_(pa.int64(), 2)),
        pa.nulls(6),
    )
    pictures: tuple[Any, ...] = (
        *(pngs, [b""] * 6, [None] * 6, [b"\0" * 99] * 6, [None, *pngs[1:]], [pngs[0][:90]] * 6),
        *([{"bytes": png} for png in pngs], [{"bytes": None, "path": "a.png"}] * 6, [[1, 2]] * 6),
        *(
            [{"path": "a.png"}] * 6,
            ["text"] * 6,
            [1.5] * 6,
            [[[0] * 28] * 28] * 6,
            [{"bytes": 1}] * 6,
        ),
        [spoil_png(png, chance) for png in pngs],
        [spoil_bytes(png, chance) for png in pngs],
        pa.array(pngs).dictionary_encode(),
        pa.array([png * 200 for png in pngs], pa.large_binary()),
        pa.array([png[:66] for png in pngs], pa.binary(66)),
    )
    image = chance.choice(pictures) if chance.random() < 0.6 else pngs
    label = chance.choice(labels) if chance.random() < 0.6 else ["bee", "sun"] * 3
    as_array = [
        value if isinstance(value, pa.Array) else pa.array(value) for value in (image, label)
    ]
    return as_array[0], as_array[1]


def spoil_table(content: bytes, chance: random.Random) -> bytes:
    """Return another table: odd columns, odd names of classes, or what was given."""
    del content
    image, label = odd_columns(chance)
    table = pa.table({"image": image, chance.choice(("label", "class_name")): label})
    if chance.random() < 0.5:
        names = chance.choice(("[1, 2]", "[null, {}]", '{"a": "bee"}', '"bee"', *ODD_JSON))
        features = {"label": {"names": "NAMES"}}
        text = json.dumps({"info": {"features": features}}).replace('"NAMES"', names)
        text = spoil_json(text.encode(), chance).decode() if chance.random() < 0.3 else text
        table = table.replace_schema_metadata({b"huggingface": text.encode()})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=chance.choice((1, 3, 6)), compression="zstd")
    return sink.getvalue()


def spoil_png(content: bytes, chance: random.Random) -> bytes:
    """Spoil one chunk of a PNG, whose checksum is right again, or add one."""
    chunks, place = [], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    if not chunks:
        return spoil_bytes(content, chance)
    at = chance.randrange(len(chunks))
    name, body = chunks[at]
    if chance.random() < 0.4:
        packed = zlib.compress(bytes(chance.choice((9, 1 << 20, 1 << 24))))
        made = chance.choice(
            [
                (b"IHDR", struct.pack(">IIBBBBB", 13_000, 13_000, 8, 0, 0, 0, 0)),
                (b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 28, 16, 2, 0, 0, 0)),
                *((b"tEXt", b"a\0" + bytes(70_000)), (b"zTXt", b"a\0\0" + packed)),
                *((b"iCCP", b"a\0\0" + packed), (b"eXIf", b"Exif\0\0MM\0*\xff\xff\xff\xff")),
                *((b"tRNS", b"\0\7"), (b"tRNS", b""), (b"PLTE", bytes(3)), (b"acTL", bytes(8))),
                *((b"IDAT", packed), (b"IEND", b""), (b"iTXt", b"\xff" * 20), (b"gAMA", b"")),
            ]
        )
        chunks[at : at + chance.randrange(2)] = [made]
    else:
        chunks[at] = name, spoil_bytes(body, chance)
    return content[:8] + b"".join(map(_chunk, chunks))


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    name, body = chunk
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _write_list(folder: Path) -> Path:
    (folder / "classes.txt").write_text('bee\n"sun"\n# more\n')
    return folder / "classes.txt"


def spoil_list(content: bytes, chance: random.Random) -> bytes:
    """Put an odd name into a list."""
    odd = (
        b"\xff\xfe",
        b"\0",
        b'"',
        b"1",
        b"null",
        b"{}",
        b"\xed\xa0\x80",
        b"tfds:99999999999",
        b"#",
    )
    odd += (b"x" * 70_000, b"[" * DEEP, b"\n" * 3, "bee\u2028sun".encode(), b"tfds:\xc2\xb2")
    lines = content.split(b"\n")
    lines.insert(chance.randrange(len(lines) + 1), chance.choice(odd))
    return b"\n".join(lines)


def _write_half(folder: Path) -> Path:
    half = np.zeros((4, 4, 2), np.uint8)
    half[:2] = 255
    (folder / "half.png").write_bytes(png_of(half))
    return folder / "half.png"


KINDS = {
    "npy": Kind(_write_npy, spoil_npy),
    "simplified": Kind(_write_simplified, spoil_lines),
    "raw": Kind(_write_raw, spoil_lines),
    "binary": Kind(_write_binary, spoil_binary),
    "shard": Kind(_write_shard, spoil_bytes),
    "table": Kind(_write_shard, spoil_table),
    "list": Kind(_write_list, spoil_list),
    "half": Kind(_write_half, spoil_png),
}
