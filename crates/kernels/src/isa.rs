//! The instruction sets of this machine, detected once. [`Isa::force`], or `KINDLING_ISA`
//! (`avx512`, `avx2`, `neon`, `portable`) in the environment, chooses a smaller set; a set in the
//! environment that the machine lacks has no effect.

use std::sync::OnceLock;

/// The set that every kernel of this process uses, once one has asked.
static CHOSEN: OnceLock<Isa> = OnceLock::new();

/// A set of vector instructions, from small to large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// No instructions beyond those of the compilation target.
    Portable,
    /// ARM NEON, 128 bits.
    Neon,
    /// AVX2 with fused multiply-add, 256 bits.
    Avx2,
    /// AVX-512 F, 512 bits.
    Avx512,
}

impl Isa {
    /// The sets that this machine can run, the smallest first.
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self::Portable];
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            found.push(Self::Neon);
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            found.push(Self::Avx2);
            if is_x86_feature_detected!("avx512f") {
                found.push(Self::Avx512);
            }
        }
        found
    }

    /// The name of the set in `KINDLING_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Makes every kernel of this process use the set of this name.
    ///
    /// # Errors
    /// A sentence, when the machine lacks the set or another set is in use already.
    pub fn force(name: &str) -> Result<(), String> {
        let available = Self::available();
        let Some(isa) = available.iter().find(|isa| isa.name() == name) else {
            let names: Vec<&str> = available.iter().map(|isa| isa.name()).collect();
            return Err(format!("`{name}`: this machine has {}", names.join(", ")));
        };
        match *CHOSEN.get_or_init(|| *isa) {
            chosen if chosen == *isa => Ok(()),
            chosen => Err(format!("`{name}`: {} is in use already", chosen.name())),
        }
    }

    /// The forced set, else the one that the environment names, else the largest of this machine.
    pub fn chosen() -> Self {
        *CHOSEN.get_or_init(|| {
            let available = Self::available();
            let wanted = std::env::var("KINDLING_ISA").unwrap_or_default();
            let named = available.iter().find(|isa| isa.name() == wanted);
            *named.or(available.last()).unwrap_or(&Self::Portable)
        })
    }
}
