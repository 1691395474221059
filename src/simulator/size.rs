//! How many pixels a picture of a ratio and a size has.

use super::scenario::Pictures;

/// Width and height of a 1K picture by ratio: Google's table for the 3.x models (image
/// generation page, read 2026-11). 512 halves it, 2K and 4K double it.
const PIXELS_1K: &[(&str, (u32, u32))] = &[
    ("1:1", (1024, 1024)),
    ("2:3", (848, 1264)),
    ("3:2", (1264, 848)),
    ("3:4", (896, 1200)),
    ("4:3", (1200, 896)),
    ("4:5", (928, 1152)),
    ("5:4", (1152, 928)),
    ("9:16", (768, 1376)),
    ("16:9", (1376, 768)),
    ("21:9", (1584, 672)),
    ("1:4", (512, 2048)),
    ("4:1", (2048, 512)),
    ("1:8", (384, 3072)),
    ("8:1", (3072, 384)),
];
/// The same for the 2.5 model, where it differs.
const PIXELS_1K_OF_2_5: &[(&str, (u32, u32))] = &[
    ("2:3", (832, 1248)),
    ("3:2", (1248, 832)),
    ("3:4", (864, 1184)),
    ("4:3", (1184, 864)),
    ("4:5", (896, 1152)),
    ("5:4", (1152, 896)),
    ("9:16", (768, 1344)),
    ("16:9", (1344, 768)),
    ("21:9", (1536, 672)),
];
/// Pixels of a tiny picture for each unit of its ratio.
const TINY_UNIT: u32 = 2;

/// The width and height that a request gets.
pub(super) fn pixels(model: &str, ratio: &str, size: &str, pictures: &Pictures) -> (u32, u32) {
    if pictures.tiny {
        let (w, h) = ratio_units(ratio);
        return (w * TINY_UNIT, h * TINY_UNIT);
    }
    let tables: [&[_]; 2] = [if model.starts_with("gemini-2.5") { PIXELS_1K_OF_2_5 } else { &[] }, PIXELS_1K];
    let known = tables.into_iter().flatten().find(|(name, _)| *name == ratio);
    let (w, h) = known.map_or((1024, 1024), |(_, pixels)| *pixels);
    let (w, h) = match size {
        "512" => (w / 2, h / 2),
        "2K" => (w * 2, h * 2),
        "4K" => (w * 4, h * 4),
        _ => (w, h),
    };
    (scaled(w, pictures.scale), scaled(h, pictures.scale))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sides are small and positive")]
fn scaled(side: u32, factor: f64) -> u32 {
    ((f64::from(side) * factor).round() as u32).max(1)
}

fn ratio_units(ratio: &str) -> (u32, u32) {
    let units = ratio.split_once(':').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    units.unwrap_or((1, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_those_of_the_real_models() {
        let check = |model, ratio, size, expected| {
            assert_eq!(pixels(model, ratio, size, &Pictures::default()), expected, "{model} {ratio} {size}");
        };
        check("gemini-3-pro-image", "16:9", "1K", (1376, 768));
        check("gemini-3-pro-image", "16:9", "4K", (5504, 3072));
        check("gemini-3.1-flash-image", "1:1", "512", (512, 512));
        check("gemini-2.5-flash-image", "16:9", "1K", (1344, 768));
        check("gemini-2.5-flash-image", "1:1", "2K", (2048, 2048));
    }

    #[test]
    fn tiny_and_scaled_pictures_keep_the_ratio() {
        let tiny = Pictures { tiny: true, ..Pictures::default() };
        assert_eq!(pixels("m", "21:9", "4K", &tiny), (42, 18));
        let quarter = Pictures { scale: 0.25, ..Pictures::default() };
        assert_eq!(pixels("m", "16:9", "1K", &quarter), (344, 192));
    }
}
