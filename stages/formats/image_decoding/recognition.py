"""What a file is, by its content: names of files and what servers say of them do not count."""

DECODED = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF", "AVIF")

_BEGINNINGS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\x89MNG", "MNG"),
    (b"\x8bJNG", "JNG"),
    (b"8BPS", "Photoshop (PSD)"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"II\xbc", "JPEG XR"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript (EPS)"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (b"\0\0\1\0", "icon (ICO)"),
    (b"\0\0\2\0", "cursor (CUR)"),
    (b"icns", "icon (ICNS)"),
    (b"DDS ", "DDS"),
    (b"BLP1", "BLP"),
    (b"BLP2", "BLP"),
    (b"gimp xcf", "GIMP (XCF)"),
    (b"v/1\1", "OpenEXR"),
    (b"#?RADIANCE", "Radiance (HDR)"),
    (b"SIMPLE  =", "FITS"),
    (b"\xd7\xcd\xc6\x9a", "Windows metafile (WMF)"),
    (b"\1\0\0\0\x6c\0\0\0", "Windows metafile (EMF)"),
    (b"qoif", "QOI"),
    (b"farbfeld", "farbfeld"),
    (b"AT&TFORM", "DjVu"),
    (b"FORM", "IFF"),
    (b"FUJIFILMCCD-RAW", "camera raw (RAF)"),
    (b"IIRO", "camera raw (ORF)"),
    (b"IIRS", "camera raw (ORF)"),
    (b"IIU\0", "camera raw (RW2)"),
    (b"FOVb", "camera raw (X3F)"),
    (b"PK\3\4", "zip archive"),
    (b"\x1f\x8b", "gzip archive"),
    (b"Rar!", "rar archive"),
    (b"7z\xbc\xaf", "7z archive"),
    (b"\x1aE\xdf\xa3", "Matroska or WebM video"),
    (b"version https://git-lfs", "pointer of Git LFS"),
)
_NETPBM = frozenset(b"P%d" % kind + space for kind in range(1, 8) for space in (b"\n", b" ", b"\t", b"\r"))
_BMP_HEADERS = frozenset((12, 40, 52, 56, 64, 108, 124))  # sizes of the header after the first 14 bytes
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
_MARKUP = (
    (b"<!doctype html", "HTML page"),
    (b"<html", "HTML page"),
    (b"<head", "HTML page"),
    (b"<body", "HTML page"),
    (b"<script", "HTML page"),
    (b"<svg", "SVG"),
)


def recognise(content: bytes) -> str:
    """Return the name of a file's format, or nothing where it is unknown."""
    for beginning, name in _BEGINNINGS:
        if content.startswith(beginning):
            return _kind_of_tiff(content) if name == "TIFF" else name
    if content[:4] == b"RIFF":
        return "WebP" if content[8:12] == b"WEBP" else "RIFF (video or sound)"
    if content[:2] == b"BM" and int.from_bytes(content[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if content[4:8] == b"ftyp":
        return _kind_of_iso(content)
    if content[:3] in _NETPBM:
        return "Netpbm"
    return _kind_of_text(content[:4096])


def _kind_of_tiff(content: bytes) -> str:
    return "camera raw (CR2)" if content[8:10] == b"CR" else "TIFF"


def _kind_of_iso(content: bytes) -> str:
    size = min(int.from_bytes(content[:4], "big"), 1024)
    brands = {content[8:12], *(content[at : at + 4] for at in range(16, size - 3, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & _HEIF_BRANDS:
        return "HEIC"
    return "camera raw (CR3)" if b"crx " in brands else "MP4 or QuickTime video"


def _kind_of_text(opening: bytes) -> str:
    words = opening.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginning, name in _MARKUP:
        if words.startswith(beginning):
            return name
    if words.startswith((b"<?xml", b"<!--", b"<!doctype")):
        return next((name for tag, name in reversed(_MARKUP) if tag in words), "XML")
    return "JSON" if words.startswith((b"{", b'["', b"[{")) else ""
