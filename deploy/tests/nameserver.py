"""A name server on loopback for one zone, `database.test`: every name in it is 127.0.0.1. For scripts/image."""

import socket
import struct
import sys

NO_ERROR, NAME_ERROR = 0, 3


def name_of(query: bytes) -> tuple[str, int]:
    """The name asked for, and where its question ends."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += query[at] + 1
    return ".".join(labels), at + 5


def answer(query: bytes) -> bytes:
    name, end = name_of(query)
    kind = struct.unpack(">H", query[end - 4 : end - 2])[0]
    ours = name.endswith("database.test")
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 5, 4) + bytes([127, 0, 0, 1]) if ours and kind == 1 else b""
    flags = 0x8580 | (NO_ERROR if ours else NAME_ERROR)
    return query[:2] + struct.pack(">HHHHH", flags, 1, 1 if record else 0, 0, 0) + query[12:end] + record


with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind((sys.argv[1], 53))
    print("ready", flush=True)
    while True:
        message, sender = server.recvfrom(1024)
        server.sendto(answer(message), sender)
