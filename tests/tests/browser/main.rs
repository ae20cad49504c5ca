//! The recipes' own pages, the demo page, and pages of strangers: in a real Chromium, on the whole
//! product.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod dashboard;
mod demo;
mod foreign;
mod inspect;
mod notified;
mod originals;
mod recipes;
mod story;
mod verdicts;
