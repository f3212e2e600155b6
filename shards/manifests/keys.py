"""Keys of recordings: unique in a manifest, without the characters that WebDataset and file names reserve."""

from __future__ import annotations

import hashlib
import re
from array import array

LONGEST_KEY = 240  # bytes: KEY.flac is a file name of at most 255 bytes, also with what `clips` appends to a key
_RESERVED = re.compile(r"[./\\\s]")
_LARGEST_FILL = 0.6  # of the table; then it is doubled


class Keys:
    """Assigns keys, and remembers them in about 20 bytes each.

    A recording has a short name and an origin, the full name that no other recording of the manifest has. Its key is
    the short name if that is free, otherwise the origin, otherwise the short name and a hash of the origin. So keys
    depend on the order of the recordings only where names collide.
    """

    def __init__(self) -> None:
        self._taken, self._origins = HashSet(), HashSet()

    def seen(self, name: str, origin: str = "") -> bool:
        """Return whether a recording of this origin (default: the name) has a key."""
        return (origin or name) in self._origins

    def assign(self, name: str, origin: str = "") -> str:
        """Return the key of a recording that has none yet."""
        origin = origin or name
        self._origins.add(origin)
        digest = hashlib.blake2b(_bytes(origin), digest_size=8).hexdigest()
        hashed = f"{_cut(plain_key(name), LONGEST_KEY - len(digest) - 1)}-{digest}"
        candidates = [plain_key(name), plain_key(origin), hashed]
        if len(_bytes(candidates[1])) > LONGEST_KEY:
            del candidates[1]
        return next(key for key in candidates if self._taken.add(key))


def plain_key(name: str) -> str:
    """Replace dots, slashes and white space by underscores."""
    return _RESERVED.sub("_", name)


def _cut(text: str, limit: int) -> str:
    """Cut a text to so many bytes."""
    return _bytes(text)[:limit].decode(errors="ignore")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


class HashSet:
    """A set of strings that keeps 64 bits of each: about 20 bytes a string, not 100 and more.

    Among a hundred million strings the chance that any two are confused is 1 in 3,000.
    """

    def __init__(self) -> None:
        self._table, self._count = array("Q", bytes(8 << 10)), 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, text: str) -> bool:
        return self._table[self._place(_hash(text))] != 0

    def add(self, text: str) -> bool:
        """Add a string; return whether it is new."""
        number = _hash(text)
        place = self._place(number)
        if self._table[place]:
            return False
        self._table[place] = number
        self._count += 1
        if self._count > _LARGEST_FILL * len(self._table):
            self._grow()
        return True

    def _place(self, number: int) -> int:
        """Return where the number is, or the free place for it."""
        table, last = self._table, len(self._table) - 1
        place = number & last
        while table[place] not in (0, number):
            place = (place + 1) & last
        return place

    def _grow(self) -> None:
        old, self._table = self._table, array("Q", bytes(16 * len(self._table)))
        for number in old:
            if number:
                self._table[self._place(number)] = number


def _hash(text: str) -> int:
    digest = hashlib.blake2b(_bytes(text), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1  # 0 marks a free place
