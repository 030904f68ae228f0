#!/bin/sh
# speech.sh FOLDER: 24 sentences by six voices, 16 kHz mono, one file each, at one level.
set -eu
folder=$1
mkdir -p "$folder"
[ ! -e "$folder/done" ] || exit 0

number=0
say() {
    number=$((number + 1))
    name=$(printf '%02d' "$number")
    espeak-ng -v "$1" -s "$2" -w "$folder/$name-raw.wav" "$3"
    # The same level for all, and no silence of the program's own.
    sox "$folder/$name-raw.wav" -r 16000 -c 1 -b 16 "$folder/$name.wav" silence 1 0.01 0.1% reverse silence 1 0.01 0.1% reverse gain -n -6
    rm "$folder/$name-raw.wav"
}

say en-us+m3 150 "The train to the harbour leaves at nine in the morning."
say en-us+f2 155 "Please bring the blue folder to the meeting on Monday."
say en-gb+m7 145 "Our office is closed today, but you may leave a message."
say en-gb-x-rp+f4 150 "She poured the warm milk slowly into a tall glass."
say de+m1 145 "Der Zug nach Hamburg hat heute zehn Minuten Verspätung."
say es+f5 155 "Mañana por la tarde llegamos a la estación del norte."
say en-us+m3 160 "Four hundred and twenty boxes were shipped last week."
say en-us+f2 145 "I would like to change the address of my delivery."
say en-gb+m7 155 "The weather near the coast was bright but very windy."
say en-gb-x-rp+f4 145 "Your appointment has been moved to half past three."
say de+m1 155 "Bitte geben Sie mir die Nummer Ihrer letzten Rechnung."
say es+f5 145 "El médico puede atenderla el jueves a las once."
say en-us+m3 145 "A small brown dog slept under the kitchen table."
say en-us+f2 160 "Could you spell the name of the street for me, please?"
say en-gb+m7 150 "We have checked the payment and everything is in order."
say en-gb-x-rp+f4 155 "They walked along the river until the sun went down."
say de+m1 150 "Wir haben Ihre Bestellung gestern Abend verschickt."
say es+f5 150 "La puerta azul está al final del pasillo, a la derecha."
say en-us+m3 155 "The engine made a low noise and then stopped completely."
say en-us+f2 150 "Fresh bread and cheese are sold at the corner shop."
say en-gb+m7 160 "Nobody answered the telephone, so he wrote a short letter."
say en-gb-x-rp+f4 150 "The children were singing an old song about the sea."
say de+m1 160 "Der Techniker kommt am Freitag zwischen acht und zwölf Uhr."
say es+f5 155 "Necesito cambiar la fecha de mi viaje a Barcelona."
touch "$folder/done"
