//! x
/// x
#[derive(Debug)]
pub struct Fault;
/// x
#[derive(Debug)]
pub struct Faults;
