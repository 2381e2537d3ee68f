//! Inputs and targets whose rows do not belong together are errors that name both.

use pipe_runtime::{Context, Devices, Layer, pipeline};
use pipe_tests::compare::{mse, rows};
use proptest::prelude::*;
use tch::{Kind, Tensor};

use super::rows::Pass;

#[pipeline(input = (Tensor, Tensor), output = (Tensor, Tensor), chunks = 3)]
struct Pairs {
    #[device("cpu")]
    first: Pass,
    #[device("cpu")]
    last: Twice,
}

struct Twice;

impl Layer<(Tensor, Tensor)> for Twice {
    type Out = (Tensor, Tensor);

    fn run(&self, (a, b): (Tensor, Tensor), _cx: &Context) -> (Tensor, Tensor) {
        (a * 2., b * -2.)
    }
}

#[test]
fn inputs_of_different_rows_are_an_error() {
    let _serial = pipe_tests::serial();
    let vars = Pairs::vars(&Devices::cpu(2)).unwrap();
    let model = Pairs { first: Pass, last: Twice };
    let unpipelined = |a: i64, b: i64| model.unpipelined().forward((rows(a), rows(b))).unwrap_err().to_string();
    let expected = [(3, 2), (7, 8), (3, 6), (16, 8)].map(|(a, b)| (a, b, unpipelined(a, b)));
    let mut pipe = model.pipe(&vars).build().unwrap();
    for (a, b, unpipelined) in expected {
        let error = pipe.forward((rows(a), rows(b))).unwrap_err().to_string();
        let disagree = format!(
            "rows of the inputs do not belong together: tensor 0, of shape [{a}, 8] and split along dimension 0, has {a} \
             rows, and tensor 1, of shape [{b}, 8] and split along dimension 0, has {b} rows instead of {a}. Wrap what \
             goes whole to every micro-batch in `Replicate`"
        );
        assert!(error.starts_with(&disagree), "{error}");
        assert_eq!(error, unpipelined);
        let loss = |(a, b): &(Tensor, Tensor), (): &()| a.sum(Kind::Float) + b.sum(Kind::Float);
        assert_eq!(pipe.train_step((rows(a), rows(b)), (), loss).unwrap_err().to_string(), error);
    }
    let (a, b) = (rows(7), rows(7));
    assert_eq!(pipe.forward((&a, &b)).unwrap(), (&a * 2., &b * -2.));
}

#[test]
fn targets_of_other_rows_and_bare_lists_are_errors() {
    #[pipeline(input = (Tensor, Vec<i64>), output = (Tensor, Vec<i64>), chunks = 2, allow(single_stage))]
    struct Listed {
        #[device("cpu")]
        only: Pass,
    }

    let _serial = pipe_tests::serial();
    let vars = Pairs::vars(&Devices::cpu(2)).unwrap();
    let mut pipe = Pairs { first: Pass, last: Twice }.pipe(&vars).build().unwrap();
    for (inputs, targets) in [(7, 8), (7, 9), (8, 7), (8, 4), (7, 1)] {
        let loss = |(a, _): &(Tensor, Tensor), y: &Tensor| mse(a, y);
        let error = pipe.train_step((rows(inputs), rows(inputs)), rows(targets), loss).unwrap_err().to_string();
        let disagree = format!(
            "rows of the targets do not belong to those of the inputs: the inputs have {inputs} rows, and tensor 0, of \
             shape [{targets}, 8] and split along dimension 0, has {targets} row"
        );
        assert!(error.starts_with(&disagree) && error.contains(&format!("instead of {inputs}. Wrap")), "{error}");
    }
    let loss = |_: &(Tensor, Tensor), _: &Vec<i64>| Tensor::from(0.);
    let error = pipe.train_step((rows(4), rows(4)), vec![1_i64, 2, 3, 4], loss).unwrap_err().to_string();
    assert!(
        error.starts_with("a list in the targets, of length 4, does not say how it belongs to the rows"),
        "{error}"
    );

    let vars = Listed::vars(&Devices::cpu(1)).unwrap();
    let model = Listed { only: Pass };
    let unpipelined = model.unpipelined().forward((rows(4), vec![1, 2, 3, 4])).unwrap_err().to_string();
    let error = model.pipe(&vars).build().unwrap().forward((rows(4), vec![1, 2, 3, 4])).unwrap_err().to_string();
    assert!(error.starts_with("a list in the inputs, of length 4, does not say how it belongs to the rows"), "{error}");
    assert!(
        ["`Rows`", "`Each`", "`Replicate`", "an array or a tuple"].iter().all(|way| error.contains(way)),
        "{error}"
    );
    assert_eq!(unpipelined, error);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_either_agree_or_are_both_named(a in 0..=9_i64, b in 0..=9_i64, y in 0..=9_i64, chunks in 1..=5_usize) {
        let _serial = pipe_tests::serial();
        let vars = Pairs::vars(&Devices::cpu(2)).unwrap();
        let w = vars.first().ones("w", &[1]);
        let mut pipe = Pairs { first: Pass, last: Twice }.pipe(&vars).chunks(chunks).build().unwrap();
        let (first, second) = (rows(a), rows(b));
        match pipe.forward((&first, &second)) {
            Ok(found) => {
                prop_assert_eq!(a, b);
                prop_assert_eq!(found, (&first * 2., &second * -2.));
            }
            Err(error) => {
                prop_assert!(a != b);
                let text = error.to_string();
                let named = [format!("of shape [{a}, 8]"), format!("of shape [{b}, 8]"), format!("instead of {a}")];
                prop_assert!(named.iter().all(|part| text.contains(part)), "{text}");
            }
        }
        // The layers have no parameters, so the loss has one.
        let loss = |(a, _): &(Tensor, Tensor), y: &Tensor| (a * &w - y).sum(Kind::Float);
        match pipe.train_step((&first, &first), rows(y), loss) {
            Ok(_) => prop_assert_eq!(a, y),
            Err(error) => {
                prop_assert!(a != y);
                let text = error.to_string();
                let named = [format!("the inputs have {a} row"), format!("of shape [{y}, 8]")];
                prop_assert!(named.iter().all(|part| text.contains(part)), "{text}");
            }
        }
    }
}
