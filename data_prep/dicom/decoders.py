"""Find the installed packages that decode compressed pixels for pydicom, and run them safely."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from data_prep.dicom.header_values import READ_ERRORS
from data_prep.dicom.native_output import captured_stderr
from data_prep.faults import FaultKind, FileFault

#: Start of the warning that libjpeg prints if the stream is damaged and part of the image is invented.
_DAMAGED = "Corrupt JPEG data"
#: Name of the class that pyo3 raises if a decoder in Rust panics. It is not an Exception and cannot be imported.
_RUST_PANIC = "PanicException"
#: The decoder to use if several are installed: its results for damaged streams have been checked.
_PREFERRED = {
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), "pyjpegls"),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000, RLELossless), "pylibjpeg"),
}
_COMPRESSED = (
    *(JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless),
    *(JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K, RLELossless),
)


class DamagedStream(FileFault):
    """A decoder reports that a stream is damaged: no other decoder can know what is missing."""


def plugins(decoder: Decoder) -> list[str]:
    """Return the installed packages that decode for `decoder`, the preferred one first."""
    preferred = _PREFERRED.get(decoder.UID)
    return sorted(decoder.available_plugins, key=lambda plugin: plugin != preferred)


def decode_guarded(decoder: Decoder, plugin: str, source: bytes, **options: Any) -> npt.NDArray[Any]:
    """Decode with the native code of one package.

    Raises:
        FileFault: if the decoder stops. It may also raise any of `READ_ERRORS`.
        DamagedStream: if it reports that the stream is damaged, even if it returns an image.
    """
    failure: BaseException | None = None
    with captured_stderr() as output:
        try:
            image, _ = decoder.as_array(source, decoding_plugin=plugin, **options)
        except READ_ERRORS as error:
            failure = error
        except BaseException as error:
            if type(error).__name__ != _RUST_PANIC:
                raise
            text = " ".join(str(error).split())[:120]
            failure = FileFault(FaultKind.UNDECODABLE, f"the decoder stopped: {text}")
    if _DAMAGED in output.text:
        raise DamagedStream(FaultKind.UNDECODABLE, " ".join(output.text.split())[:120])
    if failure is not None:
        raise failure
    return image


def decode_rle(encoded: bytes, rows: int, columns: int, bits_allocated: int, signed: bool) -> npt.NDArray[Any] | None:
    """Decode a frame of RLE with pylibjpeg-rle as pydicom does; None if the decoder refuses it."""
    from rle.utils import decode_pixel_data

    shape: dict[str, Any] = {"rows": rows, "columns": columns, "bits_allocated": bits_allocated}
    try:
        with captured_stderr():
            cells = decode_pixel_data(encoded, version=2, **shape)
    except READ_ERRORS:
        return None
    except BaseException as error:
        if type(error).__name__ != _RUST_PANIC:
            raise
        return None
    kind = f"<{'i' if signed else 'u'}{bits_allocated // 8}"
    return (
        np.frombuffer(cells, kind).reshape(rows, columns)
        if len(cells) == rows * columns * bits_allocated // 8
        else None
    )


def available_decoders() -> str:
    """List each compressed transfer syntax with the installed packages that decode it.

    The text changes if a decoder is installed or removed: studies whose files had no decoder are then read again.
    """
    return "; ".join(" ".join((syntax, *get_decoder(syntax).available_plugins)) for syntax in _COMPRESSED)


@cache
def find_decoder(syntax: UID) -> Decoder:
    """Return pydicom's decoder of a transfer syntax. Raise FileFault, naming a package to install, if there is none."""
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise FileFault(FaultKind.NO_DECODER, f"{syntax.name}: no decoder exists for this transfer syntax") from None
    if not decoder.is_available:
        missing = "; ".join(" ".join(text.split()) for text in decoder.missing_dependencies)
        raise FileFault(FaultKind.NO_DECODER, f"{syntax.name}: no decoder is installed; install one of: {missing}")
    return decoder
