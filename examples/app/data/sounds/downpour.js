Quiet.sounds.push({
  "id": "downpour",
  "group": "water",
  "gain": 0.9,
  "made": "Broad noise that breathes twice in a loop, and twelve hundred drops."
});
