//! Whether a type can be printed, asked at compile time.

use std::fmt::Debug;
use std::marker::PhantomData;

/// Asks of `T` whether it is [`Debug`]: `Probe::<T>::IS_PRINTABLE`, with [`Unprintable`] in scope.
#[derive(Debug)]
pub struct Probe<T>(PhantomData<T>);

/// What a probe says of every type, unless it can say better.
pub trait Unprintable {
    /// Not as far as is known.
    const IS_PRINTABLE: bool = false;
}

impl<T> Unprintable for Probe<T> {}

/// An inherent constant is preferred to that of a trait.
impl<T: Debug> Probe<T> {
    /// It is.
    pub const IS_PRINTABLE: bool = true;
}
