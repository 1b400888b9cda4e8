    ];
    functions CONSTANT text[] := ARRAY[
