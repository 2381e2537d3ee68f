use pipe_schedule::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let method: Method = a[1].parse().unwrap();
    let v: usize = a[2].parse().unwrap();
    for (f, i, w) in [(1,1,1),(1,2,1),(2,1,1),(1,1,2),(1,2,2),(2,1,2),(2,2,1),(3,2,1),(3,1,2),(2,3,1),(1,3,2),(2,1,3),(1,2,3),(5,6,4),(4,5,3),(1,3,1),(1,1,3),(3,1,1)] {
        print!("{f} {i} {w}:");
        for p in [2usize, 3, 4, 5, 8, 12] {
            let m = 4 * p;
            let s = method.schedule(p, v, m).unwrap();
            let sim = simulate(&s, &Costs::equal(p * v, f as f64, i as f64, w as f64)).unwrap();
            let within = sim.period() - (m * v * (f + i + w)) as f64;
            print!("  {}", within / (p as f64 - 1.));
        }
        println!("   f+i-w {} f+i-2w {}", f + i - w, f + i - 2 * w);
    }
}
