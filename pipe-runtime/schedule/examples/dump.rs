use pipe_schedule::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let n: Vec<usize> = a[2..].iter().map(|x| x.parse().unwrap()).collect();
    print!("{}", a[1].parse::<Method>().unwrap().schedule(n[0], n[1], n[2]).unwrap().to_csv());
}
