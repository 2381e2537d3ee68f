use pipe_runtime::{Devices, nn::Concat, pipeline};
use tch::{Device, Kind, Tensor, nn};

#[pipeline(chunks = 4)]
struct Net {
    #[device("cpu")]
    #[stash(early = output)]
    first: nn::Linear,
    second: nn::Linear,
    #[device("cpu")]
    third: nn::Linear,
    #[pop(early)]
    concat: Concat,
    last: nn::Linear,
}

impl Net {
    fn new(vars: &NetVars) -> Self {
        let d = Default::default();
        Self {
            first: nn::linear(vars.first(), 4, 8, d),
            second: nn::linear(vars.second(), 8, 8, d),
            third: nn::linear(vars.third(), 8, 8, d),
            concat: Concat::default(),
            last: nn::linear(vars.last(), 16, 3, d),
        }
    }
}

#[test]
fn trains() {
    tch::set_num_threads(1);
    let vars = Net::vars(&Devices::cpu(Net::STAGES)).unwrap();
    let net = Net::new(&vars);
    println!("{}", Net::PLAN);
    let x = Tensor::randn([10, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let y = net.in_place().forward(&x).unwrap();
    y.square().sum(Kind::Float).backward();
    let expected: Vec<_> = vars.all().trainable_variables().iter().map(|v| v.grad().copy()).collect();
    let x_grad = x.grad().copy();
    for mut v in vars.all().trainable_variables() {
        v.zero_grad();
    }
    let mut x2 = x.detach().set_requires_grad(true);
    for checkpoint in ["never", "except_last", "always"] {
        let mut pipe = Net::new_again(&vars).pipe(&vars).checkpoint(checkpoint.parse().unwrap()).build().unwrap();
        let z = pipe.forward(&x2).unwrap();
        assert_eq!(z, y);
        z.square().sum(Kind::Float).backward();
        for (v, e) in vars.all().trainable_variables().iter().zip(&expected) {
            assert_eq!(v.grad(), *e);
        }
        assert_eq!(x2.grad(), x_grad);
        for mut v in vars.all().trainable_variables() {
            v.zero_grad();
        }
        x2.zero_grad();
    }
}

impl Net {
    fn new_again(vars: &NetVars) -> Self {
        let v = vars.all().variables();
        let l = |name: &str| nn::Linear { ws: v[&format!("{name}.weight")].shallow_clone(), bs: Some(v[&format!("{name}.bias")].shallow_clone()) };
        Self { first: l("first"), second: l("second"), third: l("third"), concat: Concat::default(), last: l("last") }
    }
}
