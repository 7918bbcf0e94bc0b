//! The domain of a query.

pub mod value;

pub use self::value::Value;
