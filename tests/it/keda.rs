//! KEDA's arithmetic, shared with the stand-in for it under `examples/`; its tests run here.

#[path = "../../examples/keda/arithmetic.rs"]
pub(crate) mod arithmetic;
#[path = "../../examples/keda/model.rs"]
pub(crate) mod model;
