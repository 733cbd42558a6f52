Quiet.mixes.push({
  "id": "harbour",
  "levels": {
    "waves": 0.65,
    "gale": 0.2,
    "chimes": 0.15
  }
});
