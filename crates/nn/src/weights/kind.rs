//! The choice among the weights of a file that holds several: trained ones and averages of them.

/// Which weights of a file to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightsKind {
    /// Of a checkpoint of Kindling those that were better when both were evaluated; of another file
    /// the average where there is one, as timm.
    #[default]
    Best,
    /// The trained ones.
    Raw,
    /// Their exponential average.
    Ema,
}

impl WeightsKind {
    /// Whether the exponential average is meant, where it has `ema_updates` and was better if
    /// `prefer_ema`; none where an average is asked for and there is none.
    pub fn is_ema(self, prefer_ema: bool, ema_updates: Option<u64>) -> Option<bool> {
        match self {
            WeightsKind::Raw => Some(false),
            WeightsKind::Best => Some(prefer_ema && ema_updates.is_some()),
            WeightsKind::Ema => ema_updates.map(|_| true),
        }
    }
}
