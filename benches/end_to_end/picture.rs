//! Pictures that pass for PNG and cannot be compressed, quickly made.

/// Bytes of an `IDAT` chunk, as PNG libraries write them.
const CHUNK_BYTES: usize = 64 << 10;

/// A PNG of about `bytes` bytes with right checksums. What is compressed in it is noise from `seed`.
pub(crate) fn png(bytes: usize, seed: u64) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut png, *b"IHDR", &[0, 0, 4, 0, 0, 0, 4, 0, 8, 2, 0, 0, 0]);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while png.len() < bytes {
        let wanted = (bytes - png.len()).min(CHUNK_BYTES);
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        let noise: Vec<u8> = noise.take(wanted.div_ceil(8)).flatten().collect();
        chunk(&mut png, *b"IDAT", &noise);
    }
    chunk(&mut png, *b"IEND", &[]);
    png
}

fn chunk(png: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    png.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    let start = png.len();
    png.extend_from_slice(&kind);
    png.extend_from_slice(data);
    let crc = crc32fast::hash(&png[start..]);
    png.extend_from_slice(&crc.to_be_bytes());
}
