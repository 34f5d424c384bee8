"""What is trained and attacked, and by which name: data, models, weights, recipes, attacks, the device."""
