//! The Django recipe on the same kind of machine (2 cores; uvicorn, one worker), and how many times
//! better rowcast is to be.

/// What it was measured at, and the bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    pub value: f64,
    pub bar: f64,
}

/// 500 clients, 2 changes a second. At 10 it cannot keep up.
pub const P50_MS: Recipe = Recipe { value: 47.0, bar: 20.0 };
pub const P99_MS: Recipe = Recipe { value: 171.0, bar: 20.0 };
/// At the rate for which the latencies are known.
pub const RATE: u32 = 2;
pub const DELIVERIES_PER_S: Recipe = Recipe { value: 3_700.0, bar: 20.0 };
pub const CPU_S_PER_MILLION: Recipe = Recipe { value: 210.0, bar: 20.0 };
pub const KIB_PER_CLIENT: Recipe = Recipe { value: 46.0, bar: 4.0 };
