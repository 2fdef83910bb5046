"""Find the installed packages that decode compressed pixels for pydicom, and run them safely."""

from functools import cache
from typing import Any

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


def decode_guarded(decoder: Decoder, source: bytes, **options: Any) -> npt.NDArray[Any]:
    """Decode with native code. Raise FileFault if the decoder reports damage, even if it returns an image."""
    plugin = _PREFERRED.get(decoder.UID, "")
    plugin = plugin if plugin in decoder.available_plugins else ""
    with captured_stderr() as output:
        try:
            image, _ = decoder.as_array(source, decoding_plugin=plugin, **options)
        except BaseException as error:
            if type(error).__name__ != _RUST_PANIC:
                raise
            raise FileFault(
                FaultKind.UNDECODABLE, f"the decoder stopped: {' '.join(str(error).split())[:120]}"
            ) from None
    if _DAMAGED in output.text:
        raise FileFault(FaultKind.UNDECODABLE, " ".join(output.text.split())[:120])
    return image


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
