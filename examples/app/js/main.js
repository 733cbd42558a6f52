Quiet.mixer.start();
Quiet.language.start();
for (const part of ["cards", "mixList", "timer", "scenery", "controls", "link", "offline"]) Quiet[part].start();
