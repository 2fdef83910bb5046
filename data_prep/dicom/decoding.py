"""Decode the stored values of a frame with pydicom and check them against the header's description.

Before anything is decoded, the description is checked against the limits, against the number of bytes in the file
and, if the frame is compressed, against the header of its codestream.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGExtended12Bit, RLELossless

from data_prep.dicom.codestreams import Codestream, has_end_marker, read_codestream, rle_is_whole, rle_segments
from data_prep.dicom.decoders import DamagedStream, decode_guarded, decode_rle, find_decoder, plugins
from data_prep.dicom.dicom_file import DicomFile, pydicom_warnings_ignored
from data_prep.dicom.fragments import Fragments, encoded_frame, find_fragments
from data_prep.dicom.header_values import READ_ERRORS, HeaderError
from data_prep.dicom.pixel_description import read_pixel_description
from data_prep.dicom.used_bits import BitWindow, spare_bits_vary, stated_too_high, stated_too_narrow
from data_prep.faults import FaultKind, FileFault, Repair

StoredValues = npt.NDArray[np.integer[Any]]

#: RLE compresses at most 128 equal bytes to two.
_RLE_RATIO = 64
#: A compressed frame may be larger than its pixels by this factor, plus this many bytes; anything larger is rejected.
_LARGEST_CODESTREAM_RATIO, _CODESTREAM_SLACK = 2, 1 << 20
#: Number of frames by which the bits of a file's cells are judged.
_JUDGED_FRAMES = 16


class FrameDecoder:
    """Decodes the frames of one file.

    The constructor raises FileFault if the file cannot hold the pixels that its header describes. `description` is
    that of the header, corrected if the pixels contradict it; `repairs` lists what had to be corrected so far and grows
    as frames are decoded.
    """

    def __init__(self, file: DicomFile, max_pixels: int) -> None:
        try:
            self.description = read_pixel_description(file.header, max_pixels)
        except HeaderError as error:
            raise FileFault(FaultKind.UNDECODABLE, str(error)) from None
        self.repairs: list[Repair] = list(self.description.repairs)
        self._bits_are_judged = False
        self._file = file
        self._decoder = find_decoder(file.syntax)
        self._fragments: Fragments | None = None
        if file.syntax.is_encapsulated:
            self._fragments = self._checked_fragments()
        else:
            self._check_length()

    def decode(self, frame: int) -> StoredValues:
        """Return the stored values (rows, columns) of one frame, counted from 0, in native byte order.

        Raises FileFault if the frame cannot be decoded.
        """
        try:
            with pydicom_warnings_ignored():
                # The range in which an image is inverted must be the same for all frames, whichever is decoded first.
                if self.description.inverted and self.description.frames > 1:
                    self._judge_bits()
                return self._stored_values(frame)
        except HeaderError as error:
            raise FileFault(FaultKind.UNDECODABLE, str(error)) from None
        except READ_ERRORS as error:
            raise FileFault(FaultKind.UNDECODABLE, _one_line(error)) from None

    def _check_length(self) -> None:
        """Check the length of uncompressed pixels: raise FileFault for too few bytes, note surplus ones."""
        described = self.description.frame_bytes * self.description.frames
        held = self._file.end - self._file.start
        if held < described:
            message = f"{held} bytes of pixels: the header describes {described}"
            raise FileFault(FaultKind.TRUNCATED, message)
        if held >= 2 * described and not self.description.states_grey:
            message = f"{held} bytes of pixels: one sample per pixel takes {described}; not a grey MR image"
            raise FileFault(FaultKind.NOT_GREY, message)
        if held > described + described % 2:  # an odd length is padded to an even one
            message = f"{held} bytes of pixels: the header describes {described}; the remaining bytes are ignored"
            self.repairs.append(Repair(FaultKind.SURPLUS_BYTES, message))

    def _checked_fragments(self) -> Fragments:
        """Locate the fragments of compressed pixels. Raise FileFault for too few of them, or for one too large."""
        fragments = find_fragments(self._file)
        lengths = [length for _, length in fragments.locations]
        if len(lengths) < self.description.frames or not sum(lengths):
            message = f"{len(lengths)} non-empty fragment(s): the header describes {self.description.frames} frame(s)"
            raise FileFault(FaultKind.TRUNCATED, message)
        largest = sum(lengths) if self.description.frames == 1 else max(lengths)
        if largest > self.description.frame_bytes * _LARGEST_CODESTREAM_RATIO + _CODESTREAM_SLACK:
            message = f"{largest} compressed bytes: too many for the {self.description.frame_bytes} bytes of a frame"
            raise FileFault(FaultKind.UNDECODABLE, message)
        if not fragments.delimited:
            # Each fragment is complete, and each frame is checked when it is decoded: only the delimiter is missing.
            message = "the sequence delimiter after the pixels is missing"
            self.repairs.append(Repair(FaultKind.UNDELIMITED, message))
        return fragments

    def _encoded(self, fragments: Fragments, frame: int) -> bytes:
        """Return the compressed bytes of one frame.

        If the first fragment of a single image is already complete, the fragments after it are ignored.
        """
        encoded = encoded_frame(self._file, fragments, frame, self.description.frames)
        surplus = len(encoded) - fragments.locations[0][1]
        if self.description.frames > 1 or surplus == 0 or not self._is_complete(first := encoded[:-surplus]):
            return encoded
        message = f"{surplus} compressed bytes after the end of the image are ignored"
        self.note(Repair(FaultKind.SURPLUS_BYTES, message))
        return first

    def _is_complete(self, fragment: bytes) -> bool:
        """Return whether a fragment is a complete image. RLE has no end marker, so it is decoded to find out."""
        if self._file.syntax != RLELossless:
            return has_end_marker(fragment)
        try:
            self._from_rle(fragment)
        except (FileFault, *READ_ERRORS):
            return False
        return True

    def _stored_values(self, frame: int) -> StoredValues:
        if self._fragments is None or self._file.syntax == RLELossless:
            return self._used_bits(self._cells(frame))
        return self._from_codestream(self._encoded(self._fragments, frame))

    def _cells(self, frame: int) -> StoredValues:
        """Return the cells of a frame, with all their bits."""
        if self._fragments is None:
            return self._native(frame)
        encoded = self._encoded(self._fragments, frame)
        if self._file.syntax == RLELossless:
            return self._from_rle(encoded)
        stream = self._checked_stream(encoded)
        return self._codestream_cells(stream, encoded, stream.bits)

    def _from_rle(self, encoded: bytes) -> StoredValues:
        self._check_rle(encoded)
        return self._decoded(encoded)

    def _from_codestream(self, encoded: bytes) -> StoredValues:
        stream = self._checked_stream(encoded)
        cells = self._codestream_cells(stream, encoded, stream.bits)
        if self._is_described(cells):
            return cells
        if stream.bits > self.description.bits_stored:
            self._judge_bits(cells)
            window = self._window
            if window.holds(cells):
                return cells
            if window.below and 8 * cells.itemsize == window.allocated and not spare_bits_vary(window, cells):
                return window.values(cells)  # an image at the high end of its cells, compressed as bare cells
            cells = self._codestream_cells(stream, encoded, self.description.bits_stored)
        return self._in_range(cells)

    def _codestream_cells(self, stream: Codestream, encoded: bytes, bits_stored: int) -> StoredValues:
        """Decode a codestream; its values have `bits_stored` bits, or more if the decoder takes the stream's own."""
        # The decoders' cells are as wide as the codestream needs, whatever the header allocates.
        allocated = next(bits for bits in (8, 16, 32) if stream.bits <= bits)
        signed = self._reads_signed(stream)
        if allocated < self.description.bits_stored:
            described = self.description.bits_stored
            message = f"the compressed image has {stream.bits} bits, the header describes {described}: read unchanged"
            self.note(Repair(FaultKind.STREAM_PRECISION, message, "kept"))
            signed = signed and not stream.cosine
        return self._decoded(
            encoded, bits_allocated=allocated, bits_stored=bits_stored, pixel_representation=int(signed)
        )

    def _reads_signed(self, stream: Codestream) -> bool:
        """Return whether to decode signed values, if codestream and header may differ; note a difference.

        An unsigned stream with fewer bits than described has no negative values: it is decoded as unsigned. An
        unsigned stream with all bits holds a signed image that was compressed as bare cells: it is decoded as signed.
        A signed stream under an unsigned header is decoded as signed, and `_in_range` rejects negative values.
        """
        described = self.description.signed
        if stream.signed in (None, described):
            return described
        found, other = ("signed", "unsigned") if stream.signed else ("unsigned", "signed")
        message = f"the compressed image has {found} values, the header describes {other} ones"
        self.note(Repair(FaultKind.STREAM_SIGN, message))
        return not described if stream.signed else stream.bits >= self.description.bits_stored

    def _check_rle(self, encoded: bytes) -> None:
        """Raise FileFault if an RLE frame contradicts the DICOM header."""
        if self.description.frame_bytes > len(encoded) * _RLE_RATIO:
            message = f"{len(encoded)} bytes of RLE: cannot hold the {self.description.frame_bytes} bytes described"
            raise FileFault(FaultKind.TRUNCATED, message)
        expected = self.description.bits_allocated // 8
        if (segments := rle_segments(encoded)) != expected:
            message = f"{segments} RLE segments: expected {expected}, one per byte of a pixel"
            raise FileFault(FaultKind.WRONG_SHAPE, message)

    def _checked_stream(self, encoded: bytes) -> Codestream:
        """Read the header of a codestream; raise FileFault if it contradicts the DICOM header."""
        description = self.description
        stream = read_codestream(encoded, self._file.syntax)
        if (stream.rows, stream.columns, stream.samples) != (description.rows, description.columns, 1):
            found = f"{stream.rows} x {stream.columns} pixels with {stream.samples} sample(s) per pixel"
            message = f"the compressed image has {found}: expected {description.rows} x {description.columns} with 1"
            raise FileFault(FaultKind.WRONG_SHAPE, message)
        if stream.bits > description.bits_allocated:
            message = f"the compressed image has {stream.bits} bits per pixel: expected {description.bits_allocated}"
            raise FileFault(FaultKind.WRONG_SHAPE, message)
        if not stream.complete:
            raise FileFault(FaultKind.TRUNCATED, "the end marker of the compressed image is missing")
        twelve_bits = self._file.syntax == JPEGExtended12Bit and stream.bits > 8
        if twelve_bits and "pylibjpeg" not in self._decoder.available_plugins:
            message = "JPEG Extended with 12 bits: install pylibjpeg-libjpeg (its licence is the GPL) to decode it"
            raise FileFault(FaultKind.NO_DECODER, message)
        return stream

    def _native(self, frame: int) -> StoredValues:
        self._file.source.seek(self._file.start)
        options = self._options(index=frame, number_of_frames=self.description.frames)
        image, _ = self._decoder.as_array(self._file.source, **options)
        return self._checked(image)

    def _decoded(self, encoded: bytes, **options: Any) -> StoredValues:
        """Decode a compressed frame with the first installed package that can; `options` replace the described values.

        If none can, the failure of the preferred one is raised.
        """
        if (direct := self._decoded_rle(encoded)) is not None:
            return self._checked(direct)
        source, options = encapsulate([encoded], has_bot=False), self._options(**options)
        failures: list[Exception] = []
        for plugin in plugins(self._decoder):
            try:
                image = self._checked(decode_guarded(self._decoder, plugin, source, **options))
            except DamagedStream:
                raise
            except (FileFault, *READ_ERRORS) as error:
                failures.append(error)
                continue
            if failures:
                self._check_other_decoder(encoded, failures[0])
                message = f"the image is decoded by {plugin}, because the preferred decoder refuses it"
                self.note(Repair(FaultKind.OTHER_DECODER, message))
            return image
        raise failures[0]

    def _decoded_rle(self, encoded: bytes) -> StoredValues | None:
        """Decode an RLE frame without pydicom, which takes as long for its options as the decoder for the pixels.

        None if the frame has another syntax, or is damaged: then pydicom and its other decoders have their say.
        """
        if self._file.syntax != RLELossless or "pylibjpeg" not in plugins(self._decoder) or len(encoded) % 2:
            return None
        description = self.description
        return decode_rle(
            encoded, description.rows, description.columns, description.bits_allocated, description.signed
        )

    def _check_other_decoder(self, encoded: bytes, failure: Exception) -> None:
        """Raise `failure` again for an RLE frame that is damaged: pydicom's decoder would cut it to size."""
        if self._file.syntax == RLELossless:
            description = self.description
            if not rle_is_whole(encoded, description.rows * description.columns):
                raise failure

    def _options(self, **options: Any) -> dict[str, Any]:
        """Return pydicom's arguments; `options` replace the described values."""
        description = self.description
        return {
            "raw": True,
            "validate": False,
            "rows": description.rows,
            "columns": description.columns,
            "samples_per_pixel": 1,
            "photometric_interpretation": "MONOCHROME2",
            "number_of_frames": 1,
            "bits_allocated": description.bits_allocated,
            # All bits of a cell, because pydicom assumes that the high bit is bits_stored - 1; see `_used_bits`.
            "bits_stored": description.bits_allocated,
            "pixel_representation": int(description.signed),
            "pixel_keyword": "PixelData",
            "pixel_vr": "OW" if self._file.word_pixels else "OB",
            **options,
        }

    def _checked(self, image: npt.NDArray[Any]) -> StoredValues:
        """Return a decoded image in native byte order; raise FileFault if its shape or type is wrong."""
        description = self.description
        if image.shape != (description.rows, description.columns):
            message = f"decoded to the shape {image.shape}: expected {description.rows} x {description.columns}"
            raise FileFault(FaultKind.WRONG_SHAPE, message)
        if image.dtype.kind not in "iu":
            raise FileFault(FaultKind.UNDECODABLE, f"decoded to {image.dtype}: expected whole numbers")
        return image.astype(image.dtype.newbyteorder("="), copy=False)

    @property
    def _window(self) -> BitWindow:
        description = self.description
        return BitWindow(description.bits_allocated, description.bits_stored, description.high_bit, description.signed)

    def _used_bits(self, cells: StoredValues) -> StoredValues:
        """Return the values of cells, without the bits that do not belong to them."""
        if self._window.holds(cells):
            return cells
        self._judge_bits(cells)
        window = self._window
        if not window.holds(cells) and spare_bits_vary(window, cells):
            message = f"pixels use bits beside those of BitsStored {window.bits}, HighBit {window.high}: ignored"
            self.note(Repair(FaultKind.SPARE_BITS, message, "kept"))
        return window.values(cells)

    def _judge_bits(self, cells: StoredValues | None = None) -> None:
        """Correct the description if the pixels show that its BitsStored or HighBit is wrong.

        `cells` are those of the only frame; of a file with several frames some are decoded.
        """
        if self._bits_are_judged:
            return
        self._bits_are_judged = True
        window = self._window
        images = self._judged_cells() if cells is None or self.description.frames > 1 else iter((cells,))
        if window.below:
            if stated_too_high(window, images):
                message = f"HighBit {window.high}: the values stand in the lowest {window.bits} bits and are read there"
                self.description = replace(self.description, high_bit=window.bits - 1)
                self.note(Repair(FaultKind.ODD_HEADER, message))
        elif window.above and stated_too_narrow(window, images):
            message = f"BitsStored {window.bits}: the values take more bits and are read with all {window.allocated}"
            self.description = replace(self.description, bits_stored=window.allocated, high_bit=window.allocated - 1)
            self.note(Repair(FaultKind.ODD_HEADER, message))

    def _judged_cells(self) -> Iterator[StoredValues]:
        """Yield the cells of some frames, without those that cannot be decoded."""
        frames = self.description.frames
        for frame in sorted({round(place) for place in np.linspace(0, frames - 1, _JUDGED_FRAMES)}):
            with suppress(FileFault, *READ_ERRORS):
                yield self._cells(frame)

    def _range(self) -> tuple[int, int]:
        bits, signed = self.description.bits_stored, self.description.signed
        return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)

    def _is_described(self, image: StoredValues) -> bool:
        """Return whether all values can be written with the described bits."""
        lowest, highest = self._range()
        return bool(image.min() >= lowest and image.max() <= highest)

    def _in_range(self, image: StoredValues) -> StoredValues:
        """Raise FileFault for values outside the described bits: a codestream has no unused bits to explain them."""
        if not self._is_described(image):
            lowest, highest = self._range()
            message = f"decoded values from {image.min()} to {image.max()}: expected {lowest} to {highest}"
            raise FileFault(FaultKind.UNDECODABLE, message)
        return image

    def note(self, repair: Repair) -> None:
        """Add a repair, once for all frames of the file."""
        if repair not in self.repairs:
            self.repairs.append(repair)


def _one_line(error: BaseException) -> str:
    """Return a decoder's error and the start of its message, which can quote only pixels and numbers of the header."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
