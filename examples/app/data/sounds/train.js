Quiet.sounds.push({
  "id": "train",
  "group": "air",
  "gain": 0.9,
  "made": "Four clacks to a rail joint, over a rumble."
});
