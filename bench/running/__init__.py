"""What fills the wall: trainings and attacks, with how many processes."""
