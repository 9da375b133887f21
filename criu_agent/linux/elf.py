"""What a program or library says of itself (man 5 elf)."""

from typing import IO

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment, NoteSegment


def build_id(file: IO[bytes]) -> str:
    """The GNU build id in hex; "" for one that has none, or is not ELF. The file must be seekable."""
    try:
        elf = ELFFile(file)
        for segment in elf.iter_segments("PT_NOTE"):
            for note in segment.iter_notes() if isinstance(segment, NoteSegment) else ():
                if note["n_type"] == "NT_GNU_BUILD_ID":
                    return str(note["n_desc"])
    except (ELFError, UnicodeDecodeError, ValueError, OverflowError):  # no ELF, or one that nobody could load
        pass
    return ""


def interpreter(file: IO[bytes]) -> str:
    """The path of the loader that a program names; "" for one that needs none."""
    try:
        for segment in ELFFile(file).iter_segments("PT_INTERP"):
            if isinstance(segment, InterpSegment):
                return str(segment.get_interp_name())
    except (ELFError, UnicodeDecodeError, ValueError, OverflowError):  # no ELF: a script, say
        pass
    return ""
