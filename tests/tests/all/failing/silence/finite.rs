//! NaN and infinity in statistics and losses.

use super::*;

#[test]
fn statistics_that_stop_being_finite_fail_the_step_and_are_put_back() {
    let _serial = pipe_tests::serial();
    for (mode, allowed) in MODES.into_iter().flat_map(|mode| [false, true].map(|allowed| (mode, allowed))) {
        let vars = Normed::vars(&Devices::cpu(2)).unwrap();
        let norm = nn::batch_norm1d(vars.norm(), 8, Default::default());
        let variance = norm.running_var.shallow_clone();
        let net = Normed { norm, head: linear(vars.head(), 8, 8), end: func(Tensor::relu) };
        let mut pipe = net.pipe(&vars).checkpoint(mode).allow_non_finite(allowed).build().unwrap();
        // Micro-batches of 3, 3 and 1 rows. A single row has no unbiased variance.
        let step = pipe.train_step(rows(7), rows(7), mse).map(drop);
        if allowed {
            step.unwrap();
            assert!(variance.double_value(&[0]).is_nan());
            continue;
        }
        let error = step.unwrap_err().to_string();
        assert!(error.starts_with("forward of micro-batch 2 in stage 0"), "{error}");
        assert!(error.contains("`norm.running_var` is no longer finite"), "{error}");
        assert_eq!(variance.double_value(&[0]), 1.);
        assert!(pipe.forward(rows(7)).unwrap_err().to_string().contains("no longer finite"));
        pipe.train_step(rows(6), rows(6), mse).unwrap();
    }
}

#[test]
fn a_loss_that_is_no_number_fails_the_step() {
    let _serial = pipe_tests::serial();
    for mode in MODES {
        let (mut pipe, vars) = pipe(mode);
        let (x, labels) = (rows(8), Tensor::from_slice(&[0_i64, 1, -100, -100, 2, 3, 4, 5]));
        let loss =
            |output: &Tensor, y: &Tensor| output.cross_entropy_loss::<Tensor>(y, None, tch::Reduction::Mean, -100, 0.);
        let error = pipe.train_step(&x, &labels, loss).unwrap_err().to_string();
        assert!(error.contains("the loss of micro-batch 1 is not finite"), "{error}");
        assert!(error.contains("Reduction::Weighted"), "{error}");
        assert_eq!(trained(&vars), 0);
        // With the suggested weights, which count the labels, the loss is that of plain tch.
        let counted = |y: &Tensor| y.ne(-100).sum(Kind::Double).double_value(&[]);
        let report = pipe.step().reduction(Reduction::Weighted(&counted)).run(&x, &labels, loss).unwrap();
        let model = pipe.into_inner();
        let plain = loss(&x.apply(&model.first).tanh().apply(&model.last), &labels);
        assert!(report.loss.allclose(&plain, 1e-6, 1e-7, false));
    }
}

#[test]
fn a_loss_scaler_may_have_infinite_losses() {
    let _serial = pipe_tests::serial();
    let (net, vars) = net(func(Tensor::tanh));
    let mut pipe = net.pipe(&vars).allow_non_finite(true).build().unwrap();
    let report = pipe.train_step(rows(8), rows(8), |output, y: &Tensor| mse(output, y) * f64::INFINITY).unwrap();
    assert!(report.loss.double_value(&[]).is_infinite());
    assert_eq!(trained(&vars), 4);
}
