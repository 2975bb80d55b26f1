//! The seam for Kindling's CPU kernels: a Burn backend extension will stand here, called from one
//! place, `nn::block::conv_norm_activation`. It is the only crate that may hold `unsafe`.
