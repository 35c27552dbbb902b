//! CRC32c (Castagnoli): the checksum of SCTP.
//!
//! A CRC is linear: when some bits of a message change, the change of its CRC depends on those bits and on how many bytes
//! follow them, not on the rest. So the CRC of a packet is updated without reading the packet, and a packet that was
//! damaged before it came here stays recognisable to its receiver, as with the deltas of the Internet checksum.

/// The polynomial, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The register before the first byte.
pub const START: u32 = u32::MAX;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut register = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            register = times_x(register);
            bit += 1;
        }
        table[byte] = register;
        byte += 1;
    }
    table
};

/// `POWERS[n]` is x to the power of 8·2ⁿ: multiplying by it is the same as feeding 2ⁿ zero bytes.
const POWERS: [u32; 16] = {
    // Reflected: the highest bit is x⁰.
    let mut power = 1 << 31;
    let mut bit = 0;
    while bit < 8 {
        power = times_x(power);
        bit += 1;
    }
    let mut powers = [0; 16];
    let mut n = 0;
    while n < 16 {
        powers[n] = power;
        power = multiply(power, power);
        n += 1;
    }
    powers
};

/// `a` · x modulo the polynomial.
const fn times_x(a: u32) -> u32 {
    (a >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(a & 1))
}

/// `a` · `b` modulo the polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 0;
    while bit < 32 {
        product ^= b & 0u32.wrapping_sub((a >> (31 - bit)) & 1);
        b = times_x(b);
        bit += 1;
    }
    product
}

/// Feeds bytes to the register.
#[inline]
pub fn extend(register: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(register, |register, byte| {
        TABLE[usize::from(register.to_le_bytes()[0] ^ byte)] ^ (register >> 8)
    })
}

/// The CRC from the register after the last byte. SCTP sends it in little-endian order.
#[inline]
pub const fn finish(register: u32) -> u32 {
    !register
}

/// What to xor to a CRC when four bytes of its message change by `difference` (old xor new) and `following` bytes come
/// after them.
#[inline]
pub fn difference(difference: [u8; 4], following: u16) -> u32 {
    let mut register = extend(0, &difference);
    for (n, power) in POWERS.iter().enumerate() {
        if following >> n & 1 == 1 {
            register = multiply(register, *power);
        }
    }
    register
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc(bytes: &[u8]) -> u32 {
        finish(extend(START, bytes))
    }

    #[test]
    fn known_values() {
        // The check value of the CRC catalogue, and RFC 3720, appendix B.4.
        assert_eq!(crc(b"123456789"), 0xe306_9283);
        assert_eq!(crc(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_difference_is_what_changes() {
        for len in [4usize, 5, 12, 100, 1472, 65_515] {
            let mut bytes: Vec<u8> = (0..len).map(|at| (at * 7 + 3) as u8).collect();
            let before = crc(&bytes);
            let change = [0x12, 0x34, 0xff, 0x01];
            bytes.iter_mut().zip(change).for_each(|(byte, bits)| *byte ^= bits);
            assert_eq!(crc(&bytes), before ^ difference(change, (len - 4) as u16), "{len} bytes");
        }
    }
}
