//! What befalls a page in the course of a day: gateways die, Redis restarts, its tab sleeps.

/// Every status that the page shows.
const STATES: &str = "[...document.querySelectorAll('.state')].map((state) => state.dataset.state)";
/// The dashboard says that all is well.
pub const ALL_LIVE: &str = "(() => {
    const states = [...document.querySelectorAll('.state')];
    return states.length === 3 && states.every((state) => state.dataset.state === 'live');
})()";

/// The dashboard says this everywhere.
pub fn in_state(state: &str) -> String {
    format!("{STATES}.every((shown) => shown === '{state}')")
}
