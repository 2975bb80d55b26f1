//! The EXIF orientation is found in every container, in every type and byte order, and turns whole
//! images and regions alike.
//!
//! Mutations caught: PNG searched only before its data, the prefix kept, LONG read as SHORT, only
//! the first APP1, orientations 6 and 8 exchanged, the borders of a smaller patch not turned; XMP over
//! EXIF; XMP where EXIF has a value that is not defined.

use std::path::Path;

use image::RgbImage;
use transforms::decode::{DecodeScratch, EncodedImage, decode};
use transforms::exif::orientation;
use transforms::jpeg::SHRINKS;
use transforms::orientation::Orientation;
use transforms::resize::{Interpolation, Region, resize};

fn file(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decode");
    std::fs::read(folder.join(name)).unwrap()
}

/// What a tag of an EXIF block says.
#[derive(Clone, Copy, Debug)]
struct Tag {
    big: bool,
    kind: u16,
    count: u32,
    value: u32,
}

/// Orientation 6 as cameras write it.
const SIX: Tag = Tag { big: true, kind: 3, count: 1, value: 6 };

/// An EXIF block: the header, one directory with a tag before the orientation and one behind.
fn block(tag: Tag) -> Vec<u8> {
    let two = |value: u16| if tag.big { value.to_be_bytes() } else { value.to_le_bytes() };
    let four = |value: u32| if tag.big { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut bytes = if tag.big { b"MM".to_vec() } else { b"II".to_vec() };
    bytes.extend(two(42));
    bytes.extend(four(8));
    bytes.extend(two(3));
    let mut entry = |id: u16, kind: u16, count: u32, value: [u8; 4]| {
        bytes.extend(two(id));
        bytes.extend(two(kind));
        bytes.extend(four(count));
        bytes.extend(value);
    };
    let value = match tag.kind {
        1 | 6 => [tag.value as u8, 0, 0, 0],
        3 | 8 => [two(tag.value as u16)[0], two(tag.value as u16)[1], 0, 0],
        _ => four(tag.value),
    };
    entry(0x010F, 2, 4, *b"abc\0");
    entry(0x0112, tag.kind, tag.count, value);
    entry(0x0128, 3, 1, [two(2)[0], two(2)[1], 0, 0]);
    bytes.extend(four(0));
    bytes
}

/// A JPEG with segments behind its SOI: marker and body.
fn jpeg_with(segments: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let plain = file("rgb.jpg");
    let mut bytes = plain[..2].to_vec();
    for (marker, body) in segments {
        bytes.extend([0xFF, *marker]);
        bytes.extend((body.len() as u16 + 2).to_be_bytes());
        bytes.extend(body);
    }
    bytes.extend(&plain[2..]);
    bytes
}

fn app1(block: &[u8]) -> (u8, Vec<u8>) {
    (0xE1, [b"Exif\0\0", block].concat())
}

/// A PNG with a chunk before or behind its data.
fn png_with(kind: [u8; 4], body: &[u8], behind: bool) -> Vec<u8> {
    let plain = file("rgb.png");
    let at = match behind {
        true => plain.len() - 12,
        false => 33, // behind IHDR
    };
    let named = [&kind[..], body].concat();
    let length = (body.len() as u32).to_be_bytes();
    let crc32 = crc32fast::hash(&named).to_be_bytes();
    [&plain[..at], &length, &named, &crc32, &plain[at..]].concat()
}

/// A WebP of more than one chunk: the picture, and EXIF before or behind it.
fn webp_with(body: &[u8], behind: bool) -> Vec<u8> {
    webp_with_chunk(*b"EXIF", body, behind)
}

fn webp_with_chunk(kind: [u8; 4], body: &[u8], behind: bool) -> Vec<u8> {
    let plain = file("rgba.webp");
    let mut exif = kind.to_vec();
    exif.extend((body.len() as u32).to_le_bytes());
    exif.extend(body);
    exif.resize(exif.len().next_multiple_of(2), 0);
    // 19 x 11 pixels, flags: alpha, and EXIF or XMP.
    let flags = if kind == *b"EXIF" { 0x18 } else { 0x14 };
    let head = [b"VP8X\x0A\0\0\0", &[flags, 0, 0, 0][..], &[18, 0, 0, 10, 0, 0]].concat();
    let bitstream = plain[12..].to_vec();
    let chunks = match behind {
        true => [head, bitstream, exif].concat(),
        false => [head, exif, bitstream].concat(),
    };
    let length = (chunks.len() as u32 + 4).to_le_bytes();
    [b"RIFF", &length[..], b"WEBP", &chunks].concat()
}

/// The pixels that orientation 6 makes: the stored first column, from the bottom, is the first row.
fn quarter_turned(stored: &RgbImage) -> RgbImage {
    image::imageops::rotate90(stored)
}

#[test]
fn every_container_has_its_place() {
    let six = block(SIX);
    let prefixed = [b"Exif\0\0", &six[..]].concat();
    let xmp = (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>".to_vec());
    let long: Vec<u8> = [&six[..], &vec![0; 60_000]].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("jpeg", jpeg_with(&[app1(&six)])),
        ("jpeg, XMP first", jpeg_with(&[xmp.clone(), app1(&six)])),
        ("jpeg, XMP behind", jpeg_with(&[app1(&six), xmp])),
        (
            "jpeg, comment and JFIF first",
            jpeg_with(&[
                (0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0".to_vec()),
                (0xFE, b"Exif\0\0 in a comment".to_vec()),
                app1(&six),
            ]),
        ),
        ("jpeg, two segments", jpeg_with(&[app1(&long), app1(&[1; 5000])])),
        ("png", png_with(*b"eXIf", &six, false)),
        ("png, behind the data", png_with(*b"eXIf", &six, true)),
        ("png, with JPEG's prefix", png_with(*b"eXIf", &prefixed, false)),
        ("webp", webp_with(&six, true)),
        ("webp, with JPEG's prefix", webp_with(&prefixed, true)),
        ("webp, before the picture", webp_with(&six, false)),
    ];
    for (name, bytes) in cases {
        let (stored, turned) = (decode(&bytes, false).unwrap(), decode(&bytes, true).unwrap());
        assert!(stored.width() > stored.height(), "{name}");
        assert!(turned == quarter_turned(&stored), "{name}: {:?}", turned.dimensions());
    }
}

#[test]
fn every_type_and_byte_order_is_read_and_nothing_else() {
    let upright = Orientation::default();
    let seen = |bytes: &[u8]| orientation(bytes);
    for big in [false, true] {
        for kind in [1, 3, 4, 6, 8, 9] {
            for value in 0..=10 {
                let block = block(Tag { big, kind, count: 1, value });
                let expected = Orientation::from_exif(value.into()).unwrap_or_default();
                let name = format!("type {kind}, value {value}, big {big}");
                assert_eq!(seen(&jpeg_with(&[app1(&block)])), expected, "{name}");
                assert_eq!(seen(&png_with(*b"eXIf", &block, true)), expected, "{name}");
                assert_eq!(seen(&webp_with(&block, true)), expected, "{name}");
            }
        }
    }
    // Values that EXIF does not define, and blocks that are no EXIF.
    for tag in [
        Tag { value: 1 << 16 | 6, kind: 4, ..SIX },
        Tag { kind: 2, ..SIX },
        Tag { kind: 5, ..SIX },
        Tag { count: 2, ..SIX },
        Tag { count: 0, ..SIX },
    ] {
        assert_eq!(seen(&jpeg_with(&[app1(&block(tag))])), upright, "{tag:?}");
    }
    let whole = block(SIX);
    for cut in 0..20 {
        let bytes = jpeg_with(&[app1(&whole[..cut])]);
        assert_eq!(seen(&bytes), upright, "{cut}");
        assert!(decode(&bytes, true).unwrap() == decode(&bytes, false).unwrap(), "{cut}");
    }
    for (at, value) in [(0, 0), (2, 1), (4, 0xFF), (7, 0xFF)] {
        let mut broken = whole.clone();
        broken[at] = value;
        assert_eq!(seen(&jpeg_with(&[app1(&broken)])), upright, "{at}");
    }
    assert_eq!(seen(&png_with(*b"eXIF", &whole, false)), upright, "another chunk");
    assert_eq!(seen(b""), upright);
}

/// XMP turns where EXIF says nothing, in the forms and places of Pillow's `exif_transpose`
/// (13.0.0, which was given these files).
#[test]
fn xmp_counts_where_exif_has_no_orientation() {
    let attribute = |value: u8| {
        format!("<x:xmpmeta><rdf:Description tiff:Make=\"a\" tiff:Orientation=\"{value}\"/>")
    };
    let element = "<rdf:RDF><tiff:Orientation>6</tiff:Orientation>";
    let app1_xmp =
        |packet: &str| (0xE1, [b"http://ns.adobe.com/xap/1.0/\0", packet.as_bytes()].concat());
    let text =
        |head: &[u8], packet: &str| [b"XML:com.adobe.xmp\0", head, packet.as_bytes()].concat();
    let inflated = |packet: &str| {
        use std::io::Write as _;
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(packet.as_bytes()).unwrap();
        [b"XML:com.adobe.xmp\0\x01\0\0\0".to_vec(), zlib.finish().unwrap()].concat()
    };
    let hex: String = block(SIX).iter().map(|byte| format!("{byte:02x}")).collect();
    let raw = format!("Raw profile type exif\0\nexif\n      {}\n{hex}\n", hex.len() / 2);
    let six = &attribute(6);
    let cases: Vec<(&str, Vec<u8>, u64)> = vec![
        ("jpeg, attribute", jpeg_with(&[app1_xmp(six)]), 6),
        ("jpeg, element", jpeg_with(&[app1_xmp(element)]), 6),
        ("jpeg, the last packet", jpeg_with(&[app1_xmp(&attribute(3)), app1_xmp(six)]), 6),
        ("jpeg, single quotes", jpeg_with(&[app1_xmp("tiff:Orientation='6'")]), 1),
        ("jpeg, nine", jpeg_with(&[app1_xmp(&attribute(9))]), 1),
        ("jpeg, EXIF first", jpeg_with(&[app1(&block(SIX)), app1_xmp(&attribute(3))]), 6),
        (
            "jpeg, EXIF upright",
            jpeg_with(&[app1_xmp(six), app1(&block(Tag { value: 1, ..SIX }))]),
            1,
        ),
        (
            "jpeg, EXIF not defined",
            jpeg_with(&[app1_xmp(six), app1(&block(Tag { value: 0, ..SIX }))]),
            1,
        ),
        ("png", png_with(*b"iTXt", &text(b"\0\0\0\0", six), false), 6),
        ("png, behind the data", png_with(*b"iTXt", &text(b"\0\0en\0x\0", element), true), 6),
        ("png, compressed", png_with(*b"iTXt", &inflated(six), false), 6),
        ("png, tEXt", png_with(*b"tEXt", &text(b"", six), false), 6),
        ("png, raw profile", png_with(*b"tEXt", raw.as_bytes(), false), 6),
        ("webp", webp_with_chunk(*b"XMP ", six.as_bytes(), true), 6),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(Some(orientation(&bytes)), Orientation::from_exif(expected), "{name}");
    }
}

/// A JPEG of 97 x 61 pixels with chroma of half height and width.
fn photo() -> Vec<u8> {
    let cases: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("fixtures/jpeg.json")).unwrap();
    let wanted = |case: &&serde_json::Value| {
        case["size"][0].as_u64() > Some(90) && case["name"].as_str().unwrap().contains("4:2:0 90")
    };
    let case = cases.iter().find(wanted).expect("a large file with 4:2:0");
    let text = case["file"].as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// `photo` with an orientation.
fn turned_photo(value: u32) -> Vec<u8> {
    let plain = photo();
    let (marker, body) = app1(&block(Tag { value, ..SIX }));
    let length = (body.len() as u16 + 2).to_be_bytes();
    [&plain[..2], &[0xFF, marker], &length, &body, &plain[2..]].concat()
}

/// Regions of a turned JPEG are those of the whole turned image, and stay on the fast path.
#[test]
fn a_region_of_a_turned_jpeg_is_that_part_of_the_whole() {
    let mut scratch = DecodeScratch::default();
    for value in 1..=8 {
        let bytes = turned_photo(value);
        let whole = decode(&bytes, true).unwrap();
        let image = EncodedImage::open(&bytes, true).unwrap();
        let (height, width) = (whole.height() as usize, whole.width() as usize);
        assert_eq!(image.whole(), Region { top: 0, left: 0, height, width });
        assert!(image.pixels(&mut scratch).unwrap() == whole, "orientation {value}");
        for seed in 0..60_usize {
            let (top, left) = (seed * 7919 % height, seed * 104_729 % width);
            let tall = 1 + seed * 31 % (height - top);
            let wide = 1 + seed * 57 % (width - left);
            let region = Region { top, left, height: tall, width: wide };
            let (pixels, patch) = image.region(region, 1, &mut scratch).unwrap();
            assert_eq!(patch.region, Region { top: 0, left: 0, height: tall, width: wide });
            let x = (left as u32, top as u32, wide as u32, tall as u32);
            let part = image::imageops::crop_imm(&whole, x.0, x.1, x.2, x.3).to_image();
            assert!(*pixels == part, "orientation {value}: {region:?}");
        }
    }
}

/// Decoding at a fraction of the size and turning: close to the exact image, whatever the
/// orientation, because the borders of the patch turn too.
#[test]
fn a_smaller_turned_jpeg_is_the_same_picture() {
    let mut scratch = DecodeScratch::default();
    for value in 1..=8 {
        let bytes = turned_photo(value);
        let image = EncodedImage::open(&bytes, true).unwrap();
        let whole = image.whole();
        // Borders that lie within pixels of the smaller image, from either end.
        let region = Region { top: 3, left: 5, height: whole.height - 8, width: whole.width - 6 };
        let mut exact = Vec::new();
        for shrink in &SHRINKS[..3] {
            let (pixels, patch) = image.region(region, *shrink, &mut scratch).unwrap();
            let small = resize(pixels, patch, [9, 7], Interpolation::Bilinear);
            if *shrink == 1 {
                exact = small;
                continue;
            }
            let sum: u32 = small.iter().zip(&exact).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
            let levels = f64::from(sum) / small.len() as f64;
            assert!(levels < 2.0, "orientation {value} at 1/{shrink}: {levels} levels");
        }
    }
}
