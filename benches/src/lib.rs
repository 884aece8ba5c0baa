//! The shared harness: workloads against contenders, measured in fresh processes.
//!
//! The way of the data, each stage a function with one type on each side:
//!
//! | stage | from | to |
//! |---|---|---|
//! | [`workload::Workload::load`] | a trace file or a generator | [`script::Script`] |
//! | [`workload::Workload::prepare`] | the same | [`workload::Prepared`], a script in a file |
//! | [`worker::main`] (a process each) | a script, a contender, a pass | [`worker::Finding`], a line of JSON |
//! | [`measure::measure`] | prepared workloads, contenders, a plan | [`measure::Sample`]s |
//! | [`summary::summarise`] | samples | [`summary::Row`]s |
//! | [`table::render`], [`json::write`] | rows | text, JSON lines |
//!
//! [`registry`] knows all contenders; adding a strategy is one line there.
//!
//! # What makes a comparison true
//!
//! * Every contender is called through the same boundary, `&dyn GlobalAlloc`, and gets the same script.
//! * Each sample comes from a process of its own; all contenders of a workload follow each other in random order, and
//!   figures are means of the faster half, relative to glibc in the same run.
//! * A pass is timed as a whole ([`replay`] says by which clock), with code, script and tables present in memory and the heap as new.
//! * Memory is touched as a program would touch it, and footprint is the kernel's word (see [`footprint`]).

pub mod baseline;
pub mod cli;
pub mod contender;
pub mod environment;
mod files;
pub mod floor;
pub mod footprint;
pub mod generators;
pub mod json;
pub mod matrix;
pub mod measure;
pub mod passes;
mod peers;
pub mod programs;
pub mod progress;
pub mod registry;
pub mod replay;
pub mod report;
pub mod reproduce;
pub mod script;
pub mod self_test;
pub mod slowed;
pub mod statistics;
pub mod summary;
pub mod table;
pub mod truth;
pub mod verify;
pub mod worker;
pub mod workload;
