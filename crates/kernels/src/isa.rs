//! Which instructions this machine has, found once. [`Isa::force`], or `KINDLING_ISA` (`avx512`, `avx2`, `neon`,
//! `portable`) in the environment, chooses a smaller set; a set in the environment that the machine lacks has no
//! effect.

use std::sync::OnceLock;

/// What every kernel uses, once one has asked.
static CHOSEN: OnceLock<Isa> = OnceLock::new();

/// A set of vector instructions, from small to large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every target of the compiler has.
    Portable,
    /// ARM's 128 bits.
    Neon,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 F.
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

    /// The name that `KINDLING_ISA` knows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Has every kernel of this process use the set of this name.
    ///
    /// # Errors
    /// When the machine lacks it, or a set was chosen before: a sentence.
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

    /// The largest set that this machine has and the environment allows, or the forced one.
    pub fn chosen() -> Self {
        *CHOSEN.get_or_init(|| {
            let available = Self::available();
            let wanted = std::env::var("KINDLING_ISA").unwrap_or_default();
            let named = available.iter().find(|isa| isa.name() == wanted);
            *named.or(available.last()).unwrap_or(&Self::Portable)
        })
    }
}
