//! What the tests share.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses a part of this")]

pub mod frames;
pub mod packets;

/// Bytes from hexadecimal digits; white space between them does not count.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
