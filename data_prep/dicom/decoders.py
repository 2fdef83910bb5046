"""The packages that decode compressed pixels for pydicom: which are there, and how to run one that may misbehave."""

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

#: How libjpeg begins what it says of a stream whose image it had to make up in part.
_DAMAGED = "Corrupt JPEG data"
#: What pyo3 calls the end of a decoder in Rust. It is no Exception, and its class cannot be imported.
_RUST_PANIC = "PanicException"
#: Of several decoders, the one to ask: what it returns for damaged streams was looked at.
_PREFERRED = {
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), "pyjpegls"),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000, RLELossless), "pylibjpeg"),
}
_COMPRESSED = (
    *(JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless),
    *(JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K, RLELossless),
)


def decode_guarded(decoder: Decoder, source: bytes, **options: Any) -> npt.NDArray[Any]:
    """Decode with native code. Raises FileFault for a stream that it finds damaged, also where it returns an image."""
    plugin = _PREFERRED.get(decoder.UID, "")
    plugin = plugin if plugin in decoder.available_plugins else ""
    with captured_stderr() as output:
        try:
            image, _ = decoder.as_array(source, decoding_plugin=plugin, **options)
        except BaseException as error:
            if type(error).__name__ != _RUST_PANIC:
                raise
            raise FileFault(
                FaultKind.UNDECODABLE, f"its decoder stopped: {' '.join(str(error).split())[:120]}"
            ) from None
    if _DAMAGED in output.text:
        raise FileFault(FaultKind.UNDECODABLE, " ".join(output.text.split())[:120])
    return image


def available_decoders() -> str:
    """Each compressed transfer syntax and the packages that read it here: another text where one was installed."""
    return "; ".join(" ".join((syntax, *get_decoder(syntax).available_plugins)) for syntax in _COMPRESSED)


@cache
def find_decoder(syntax: UID) -> Decoder:
    """Raises FileFault, which names the package to install, where nothing decodes this syntax."""
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise FileFault(FaultKind.NO_DECODER, f"{syntax.name}: nothing decodes it") from None
    if not decoder.is_available:
        missing = "; ".join(" ".join(text.split()) for text in decoder.missing_dependencies)
        raise FileFault(FaultKind.NO_DECODER, f"{syntax.name} needs one of: {missing}")
    return decoder
