//! Drawings as SVG: one frame, one style, for every curve and table of colours that a run or a
//! command draws. Light and dark follow the reader's setting.

pub mod calibration;
pub mod heat_map;
pub mod line_chart;
pub mod scale;
pub mod svg;
