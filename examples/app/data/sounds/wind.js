Quiet.sounds.push({
  "id": "wind",
  "group": "air",
  "gain": 1,
  "made": "Low noise that comes and goes, and a higher one that answers."
});
