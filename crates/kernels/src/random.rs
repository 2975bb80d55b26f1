//! splitmix64 (Steele, Lea and Flood, 2014), the hash behind initial weights, dropout masks and
//! augmentation. Every number is a function of its key; there is no generator to advance or to
//! save.
//!
//! Not for cryptography.

/// The increment of splitmix64: 2^64 divided by the golden ratio, made odd.
pub const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The output function of splitmix64, a bijection of the 64-bit words.
pub const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// The number that splitmix64 gives in state `state`; the next state is `state + GOLDEN`.
///
/// ```
/// use kernels::random::splitmix64;
/// // The published first output from state 1234567.
/// assert_eq!(splitmix64(1_234_567), 6_457_827_717_110_365_317);
/// ```
pub const fn splitmix64(state: u64) -> u64 {
    mix(state.wrapping_add(GOLDEN))
}
