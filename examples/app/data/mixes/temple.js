Quiet.mixes.push({
  "id": "temple",
  "levels": {
    "bowl": 0.5,
    "waterfall": 0.25,
    "chimes": 0.2
  }
});
