"""``folder:PATH``: the user's own pictures, converted to greyscale, all of one size, without labels.

Imports no torch.
"""

import hashlib
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import DataError, first_line
from pipeline.files import walk

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".pbm", ".ppm")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")  # Pillow would start Ghostscript for PostScript
FEWEST = 40  # pictures; a tenth of them, the smallest split, is then four
MOST_BYTES = 4 << 30  # of pixels: every worker keeps them in memory

# What Pillow raises for a file that it cannot read. A picture so large that it warns is refused as well.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning)


def read(folder: Path) -> tuple[np.ndarray, str]:
    """All pictures below a folder as uint8 ``[N, H, W]``, sorted by their paths within it, and a digest of the array.

    Colours become greys (ITU-R 601) and 16 bits become 8. A camera's orientation tag is applied; of several frames the
    first is read. Linked folders are read as well, each once; hidden files and folders are left out.

    Raises:
        DataError: not a folder, or one below it that cannot be read; fewer than 40 pictures; a picture that cannot be
            read, is transparent or has another size; all pictures of one single grey; or more than 4 GiB of pixels.
    """
    if not folder.is_dir():
        raise DataError(f'folder {folder}: there is no such folder; dataset = "folder:PATH" takes one with pictures')
    paths = _pictures(folder)
    if len(paths) < FEWEST:
        known = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise DataError(f"folder {folder}: {len(paths)} pictures ({known}); at least {FEWEST} are needed")
    first = grey(paths[0])
    if first.size * len(paths) > MOST_BYTES:
        raise DataError(
            f"folder {folder}: {len(paths)} pictures of {_shown(first)} are more than {MOST_BYTES >> 30} GiB, "
            "which are kept in memory; use fewer or smaller ones"
        )
    pixels = np.empty((len(paths), *first.shape), np.uint8)
    for index, path in enumerate(paths):
        picture = grey(path)
        if picture.shape != first.shape:
            raise DataError(
                f"{path}: {_shown(picture)} pixels, where {paths[0].name} has {_shown(first)}; "
                "all pictures of a folder must have one size"
            )
        pixels[index] = picture
    if pixels.min() == pixels.max():
        raise DataError(f"folder {folder}: all pictures are one even grey, so there is nothing to restore")
    digest = hashlib.sha256(np.array(pixels.shape, "<i8").tobytes())
    digest.update(pixels)
    return pixels, digest.hexdigest()


def _pictures(folder: Path) -> list[Path]:
    found: list[str] = []
    for here, folders, names in walk(folder, _refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
        found += [Path(here, name).relative_to(folder).as_posix() for name in shown]
    return [folder / path for path in sorted(found)]


def _refuse(error: OSError) -> None:
    raise DataError(f"folder {error.filename}: cannot be read: {error.strerror}") from None


def grey(path: Path) -> np.ndarray:
    """One picture as greyscale, uint8 ``[H, W]``. Raises DataError: it cannot be read, or is transparent in places."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")  # to read a pipe could take for ever
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                upright = ImageOps.exif_transpose(image)
                if upright.has_transparency_data:
                    upright = upright.convert("RGBA")
                    if upright.getchannel("A").getextrema() != (255, 255):
                        raise ValueError("it is transparent in places; save it on the background that you want")
                if upright.mode.startswith("I;16") or (image.format == "PPM" and upright.mode == "I"):
                    return ((np.asarray(upright).astype(np.uint32) + 128) // 257).astype(np.uint8)
                if upright.mode in ("I", "F"):
                    raise ValueError("its pixels are signed or of 32 bits; save it with 8 or 16 bits, unsigned")
                return np.asarray(upright.convert("L"))
    except UnidentifiedImageError:
        raise DataError(f"{path}: its content is none of {', '.join(FORMATS)}; repair it or remove it") from None
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"{path}: cannot be read as a picture: {reason}; repair it or remove it") from None


def _shown(picture: np.ndarray) -> str:
    return f"{picture.shape[0]} x {picture.shape[1]}"
