"""The stored values of one frame, decoded by pydicom and held against what the header promised.

Nothing is decoded before the promise was held against the limits, against the bytes that are there,
and, where a frame is compressed, against what its codestream says of itself.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGExtended12Bit, RLELossless

from data_prep.dicom.codestreams import Codestream, ends, read_codestream, rle_segments
from data_prep.dicom.decoders import decode_guarded, find_decoder
from data_prep.dicom.dicom_file import DicomFile, without_remarks
from data_prep.dicom.fragments import Fragments, encoded_frame, find_fragments
from data_prep.dicom.header_values import READ_ERRORS, HeaderError
from data_prep.dicom.pixel_description import promise_of
from data_prep.faults import FaultKind, FileFault, Repair

StoredValues = npt.NDArray[np.integer[Any]]

#: RLE writes at most 128 equal bytes as two.
_RLE_RATIO = 64
#: A compressed frame larger than this many times its pixels, and this many bytes, holds something else.
_LARGEST_CODESTREAM_RATIO, _CODESTREAM_SLACK = 2, 1 << 20


class FrameDecoder:
    """Decodes the frames of one file.

    repairs: what was put right so far; it grows as frames are decoded.
    Raises FileFault, already when it is made, where the file cannot hold what its header promises.
    """

    def __init__(self, file: DicomFile, max_pixels: int) -> None:
        try:
            self.promise = promise_of(file.header, max_pixels)
        except HeaderError as error:
            raise FileFault(FaultKind.UNDECODABLE, str(error)) from None
        self.repairs: list[Repair] = []
        self._file = file
        self._decoder = find_decoder(file.syntax)
        self._fragments: Fragments | None = None
        if file.syntax.is_encapsulated:
            self._fragments = self._checked_fragments()
        else:
            self._check_length()

    def decode(self, frame: int) -> StoredValues:
        """(rows, columns) of one frame, counted from 0, in native byte order. Raises FileFault."""
        try:
            with without_remarks():
                if self._fragments is None:
                    return self._native(frame)
                return self._compressed(self._encoded(self._fragments, frame))
        except HeaderError as error:
            raise FileFault(FaultKind.UNDECODABLE, str(error)) from None
        except READ_ERRORS as error:
            raise FileFault(FaultKind.UNDECODABLE, _one_line(error)) from None

    def _check_length(self) -> None:
        """Uncompressed pixels: neither too few, nor more than make the promised frames."""
        promised = self.promise.frame_bytes * self.promise.frames
        held = self._file.end - self._file.start
        if held < promised:
            raise FileFault(FaultKind.TRUNCATED, f"{promised} bytes of pixels promised, {held} there")
        if held > promised + promised % 2:  # an odd length is padded to an even one
            message = f"{held} bytes of pixels for the {promised} promised: those after them were left out"
            self.repairs.append(Repair(FaultKind.SURPLUS_BYTES, message))

    def _checked_fragments(self) -> Fragments:
        """Compressed pixels: a fragment for each frame, none of them too small or too large for its pixels."""
        fragments = find_fragments(self._file)
        lengths = [length for _, length in fragments.places]
        if len(lengths) < self.promise.frames or not sum(lengths):
            message = f"{self.promise.frames} frame(s) promised, {len(lengths)} fragment(s) there"
            raise FileFault(FaultKind.TRUNCATED, message)
        largest = sum(lengths) if self.promise.frames == 1 else max(lengths)
        if largest > self.promise.frame_bytes * _LARGEST_CODESTREAM_RATIO + _CODESTREAM_SLACK:
            message = f"{largest} compressed bytes for {self.promise.frame_bytes} of pixels"
            raise FileFault(FaultKind.UNDECODABLE, message)
        if not fragments.delimited:
            # Each fragment is whole, and each frame is checked to be: nothing is missing but the mark itself.
            message = "the sequence delimiter after the pixels is missing"
            self.repairs.append(Repair(FaultKind.UNDELIMITED, message))
        return fragments

    def _encoded(self, fragments: Fragments, frame: int) -> bytes:
        """A single image that ends with its first fragment has no part in those that follow."""
        encoded = encoded_frame(self._file, fragments, frame, self.promise.frames)
        surplus = len(encoded) - fragments.places[0][1]
        if self.promise.frames > 1 or surplus == 0 or not self._is_whole(first := encoded[:-surplus]):
            return encoded
        message = f"{surplus} compressed bytes after the end of the image: left out"
        self.note(Repair(FaultKind.SURPLUS_BYTES, message))
        return first

    def _is_whole(self, fragment: bytes) -> bool:
        """Whether a fragment is an image; of RLE, which has no end marker, decoding it tells."""
        if self._file.syntax != RLELossless:
            return ends(fragment)
        try:
            self._compressed(fragment)
        except (FileFault, *READ_ERRORS):
            return False
        return True

    def _native(self, frame: int) -> StoredValues:
        self._file.source.seek(self._file.start)
        image = self._run(self._file.source, index=frame, number_of_frames=self.promise.frames)
        return self._used_bits(image)

    def _compressed(self, encoded: bytes) -> StoredValues:
        stream = self._checked_stream(encoded)
        source = encapsulate([encoded], has_bot=False)
        if stream is None:
            return self._used_bits(self._run(source))
        # The decoders' cells are as wide as the codestream needs, whatever the header allocates.
        allocated = next(bits for bits in (8, 16, 32) if stream.bits <= bits)
        stored, signed = min(self.promise.bits_stored, stream.bits), self._reads_signed(stream)
        if allocated < self.promise.bits_stored:
            message = f"{stream.bits} bits in the compressed image, {self.promise.bits_stored} promised: read as it is"
            self.note(Repair(FaultKind.STREAM_PRECISION, message, "kept"))
            signed = signed and not stream.cosine
        image = self._run(source, bits_allocated=allocated, bits_stored=stored, pixel_representation=int(signed))
        return self._in_range(image)

    def _reads_signed(self, stream: Codestream) -> bool:
        """Whether values are decoded with a sign, where the codestream has an opinion of its own.

        Without a sign in fewer bits than promised, they are as they are, because none can be negative. Without one in
        all bits, they are a signed image that was compressed as bare cells, whose bits the decoder reads as the header
        says. With a sign under a header that has none, they are read with it, and `_in_range` refuses negative ones.
        """
        promised = self.promise.signed
        if stream.signed in (None, promised):
            return promised
        found, other = ("a sign", "none") if stream.signed else ("no sign", "one")
        self.note(Repair(FaultKind.STREAM_SIGN, f"{found} in the compressed image, {other} promised"))
        return not promised if stream.signed else stream.bits >= self.promise.bits_stored

    def _checked_stream(self, encoded: bytes) -> Codestream | None:
        """What the codestream says, where it agrees with the header."""
        promise = self.promise
        stream = read_codestream(encoded, self._file.syntax)
        if stream is None:
            if promise.frame_bytes > len(encoded) * _RLE_RATIO:
                message = f"{promise.frame_bytes} bytes promised, {len(encoded)} of RLE cannot hold them"
                raise FileFault(FaultKind.TRUNCATED, message)
            if (segments := rle_segments(encoded)) != promise.bits_allocated // 8:
                message = f"{segments} RLE segments for pixels of {promise.bits_allocated // 8} bytes"
                raise FileFault(FaultKind.WRONG_SHAPE, message)
            return None
        if (stream.rows, stream.columns, stream.samples) != (promise.rows, promise.columns, 1):
            found = f"{stream.rows} x {stream.columns} pixels of {stream.samples} sample(s)"
            message = f"{found} compressed, {promise.rows} x {promise.columns} of one promised"
            raise FileFault(FaultKind.WRONG_SHAPE, message)
        if stream.bits > promise.bits_allocated:
            message = f"{stream.bits} bits a pixel compressed, {promise.bits_allocated} promised"
            raise FileFault(FaultKind.WRONG_SHAPE, message)
        if not stream.complete:
            raise FileFault(FaultKind.TRUNCATED, "the compressed image stops before its end marker")
        twelve_bits = self._file.syntax == JPEGExtended12Bit and stream.bits > 8
        if twelve_bits and "pylibjpeg" not in self._decoder.available_plugins:
            message = "JPEG Extended of 12 bits needs pylibjpeg-libjpeg, whose licence is the GPL: not installed by us"
            raise FileFault(FaultKind.NO_DECODER, message)
        return stream

    def _run(self, source: Any, **options: Any) -> StoredValues:
        """Let pydicom decode, and hold the array against the promise."""
        promise = self.promise
        described: dict[str, Any] = {
            "rows": promise.rows,
            "columns": promise.columns,
            "samples_per_pixel": 1,
            "photometric_interpretation": "MONOCHROME2",
            "number_of_frames": 1,
            "bits_allocated": promise.bits_allocated,
            # All bits of a cell, because pydicom knows of no other highest bit than the one below it.
            "bits_stored": promise.bits_allocated,
            "pixel_representation": int(promise.signed),
            "pixel_keyword": "PixelData",
            "pixel_vr": "OW" if self._file.word_pixels else "OB",
        }
        described |= options
        if self._fragments is None:
            image, _ = self._decoder.as_array(source, raw=True, validate=False, **described)
        else:
            image = decode_guarded(self._decoder, source, raw=True, validate=False, **described)
        if image.shape != (promise.rows, promise.columns):
            message = f"decoded to {image.shape}, promised {promise.rows} x {promise.columns}"
            raise FileFault(FaultKind.WRONG_SHAPE, message)
        if image.dtype.kind not in "iu":
            raise FileFault(FaultKind.UNDECODABLE, f"decoded to {image.dtype}: expected whole numbers")
        return image.astype(image.dtype.newbyteorder("="), copy=False)

    def _used_bits(self, image: StoredValues) -> StoredValues:
        """Without the bits of a cell that are not the value's: zeros, or the sign, take their place."""
        promise = self.promise
        above, below = promise.bits_allocated - promise.high_bit - 1, promise.high_bit + 1 - promise.bits_stored
        if not above and not below:
            return image
        if promise.signed:
            return np.right_shift(np.left_shift(image, above), above + below)
        return np.bitwise_and(np.right_shift(image, below), (1 << promise.bits_stored) - 1).astype(image.dtype)

    def _in_range(self, image: StoredValues) -> StoredValues:
        """A codestream has no unused bits: what the promised ones cannot hold is damage."""
        bits = self.promise.bits_stored
        lowest, highest = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if self.promise.signed else (0, (1 << bits) - 1)
        if image.min() < lowest or image.max() > highest:
            message = f"values {image.min()} to {image.max()}, expected {lowest} to {highest}"
            raise FileFault(FaultKind.UNDECODABLE, message)
        return image

    def note(self, repair: Repair) -> None:
        """Once for all frames of a file."""
        if repair not in self.repairs:
            self.repairs.append(repair)


def _one_line(error: BaseException) -> str:
    """A decoder's error and the beginning of its message: it saw pixels, and numbers of the header."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
