//! Which instructions this machine has, found once. `KINDLING_ISA` (`avx512`, `avx2`, `portable`) forces a
//! smaller set; a larger one than there is has no effect.

use std::sync::OnceLock;

/// A set of vector instructions, from small to large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every target of the compiler has.
    Portable,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 F.
    Avx512,
}

impl Isa {
    /// The sets that this machine can run, the smallest first.
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(Self::Avx2);
                if is_x86_feature_detected!("avx512f") {
                    found.push(Self::Avx512);
                }
            }
        }
        found
    }

    /// The largest set that this machine has and the environment allows.
    pub fn chosen() -> Self {
        static CHOSEN: OnceLock<Isa> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let most = match std::env::var("KINDLING_ISA").as_deref() {
                Ok("portable") => Self::Portable,
                Ok("avx2") => Self::Avx2,
                _ => Self::Avx512,
            };
            let available = Self::available();
            available.into_iter().filter(|isa| *isa <= most).max().unwrap_or(Self::Portable)
        })
    }
}
