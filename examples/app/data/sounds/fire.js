Quiet.sounds.push({
  "id": "fire",
  "group": "night",
  "gain": 1,
  "made": "Two hundred and sixty crackles, twenty-six snaps, a low breath."
});
