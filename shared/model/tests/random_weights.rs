//! Random weights of a named shape are the same in every node, whatever else it does meanwhile.

#![cfg(test)]

use std::thread;

use edgeprompt_model::{ComputeDevice, Model, ModelShape};

#[test]
fn models_that_are_made_at_the_same_time_are_the_same() {
    let numbers = || {
        let device = ComputeDevice::default().open().unwrap();
        let model = Model::dummy(ModelShape::Tiny, &device);
        let layers = model.decoder.layers().iter();
        let numbers: Vec<_> = layers.flat_map(|it| it.heads().to_numbers()).collect();
        numbers
    };
    let expected = numbers();
    thread::scope(|scope| {
        let makers: Vec<_> = (0..64).map(|_| scope.spawn(numbers)).collect();
        for maker in makers {
            assert!(maker.join().unwrap() == expected);
        }
    });
}
