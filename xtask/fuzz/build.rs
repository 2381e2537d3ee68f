fn main() {
    pipe_libtorch::link();
}
