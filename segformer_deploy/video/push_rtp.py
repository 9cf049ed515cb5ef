"""H.264 in RTP packets, as an RTSP connection carries them, and their description in SDP."""

from __future__ import annotations

import base64
import secrets
import struct
import time

from segformer_deploy.video.push_links import CLOCK

_PAYLOAD = 1400  # bytes: a server may pass each packet on by UDP, in one Ethernet frame
_TYPE = 96  # the first dynamic payload type (RFC 3551)
_NTP_EPOCH = 2_208_988_800  # seconds from 1900 to 1970
_SPS, _PPS, _FU_A = 7, 8, 28


def split(data: bytes) -> list[bytes]:
    """The NAL units of a byte stream (H.264, annex B); none of them can end in a zero."""
    return [unit for piece in data.split(b"\0\0\1") if (unit := piece.rstrip(b"\0"))]


def parameter_sets(headers: bytes) -> list[bytes]:
    """The sequence and picture parameter sets among an encoder's headers."""
    return [unit for unit in split(headers) if unit[0] & 31 in (_SPS, _PPS)]


def session_description(host: str, sets: list[bytes]) -> str:
    """SDP (RFC 4566, RFC 6184) of one H.264 stream."""
    family = "IP6" if ":" in host else "IP4"
    sprop = ",".join(base64.b64encode(one).decode() for one in sets)
    lines = [
        "v=0",
        f"o=- 0 0 IN {family} {host}",
        "s=segdeploy",
        f"c=IN {family} {host}",
        "t=0 0",
        f"m=video 0 RTP/AVP {_TYPE}",
        f"a=rtpmap:{_TYPE} H264/{CLOCK}",
        f"a=fmtp:{_TYPE} packetization-mode=1; sprop-parameter-sets={sprop}; "
        f"profile-level-id={sets[0][1:4].hex().upper()}",
        "a=control:streamid=0",
    ]
    return "\r\n".join(lines) + "\r\n"


class Packets:
    """H.264 in RTP (RFC 6184, mode 1), each packet wrapped for a TCP connection."""

    def __init__(self) -> None:
        self._source = secrets.randbits(32)
        self._sequence = secrets.randbits(16)
        self._offset = secrets.randbits(32)
        self._time = self._packets = self._octets = 0

    def of(self, units: list[bytes], pts: int) -> bytes:
        """The packets of one picture's NAL units; `pts` in ticks of 90 kHz."""
        self._time = (self._offset + pts) & 0xFFFFFFFF
        parts = [part for unit in units for part in _parts(unit)]
        out = bytearray()
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            out += struct.pack(">cBH", b"$", 0, 12 + len(part))
            out += struct.pack(
                ">BBHII", 0x80, last << 7 | _TYPE, self._sequence, self._time, self._source
            )
            out += part
            self._sequence = (self._sequence + 1) & 0xFFFF
            self._octets += len(part)
        self._packets += len(parts)
        return bytes(out)

    def report(self) -> bytes:
        """A sender report (RFC 3550, 6.4.1): which time of day the last picture belongs to."""
        now = time.time() + _NTP_EPOCH
        words = (
            self._source, int(now), int(now % 1 * 2**32), self._time, self._packets, self._octets,
        )  # fmt: skip
        body = struct.pack(">BBH", 0x80, 200, 6)
        body += struct.pack(">6I", *(word & 0xFFFFFFFF for word in words))
        return struct.pack(">cBH", b"$", 1, len(body)) + body


def _parts(unit: bytes) -> list[bytes]:
    """The unit itself, or its fragments (FU-A) where it is too long for one packet."""
    if len(unit) <= _PAYLOAD:
        return [unit]
    indicator, kind = unit[0] & 0xE0 | _FU_A, unit[0] & 31
    pieces = [unit[at : at + _PAYLOAD - 2] for at in range(1, len(unit), _PAYLOAD - 2)]
    flags = [0x80, *[0] * (len(pieces) - 2), 0x40]
    return [
        bytes([indicator, flag | kind]) + piece for flag, piece in zip(flags, pieces, strict=True)
    ]
